package bus

import (
	"fmt"
	"strings"

	"github.com/perigee-cloud/perigee/api"
)

// Every subject begins with the protocol's version. A node's subjects:
//
//	p1.node.<id>.cmd                       command, scheduler → edge
//	p1.node.<id>.report                    report, edge → leader
//	p1.node.<id>.heartbeat                 heartbeat, edge → every replica
//	p1.node.<id>.up.<session>.<viewer>     signal, edge → gateway
//	p1.node.<id>.down.<session>.<viewer>   signal, gateway → edge
//	p1.node.<id>.inbox.>                   answers to the edge's requests
const prefix = "p1.node."

const (
	kindCommand   = "cmd"
	kindReport    = "report"
	kindHeartbeat = "heartbeat"
	kindUp        = "up"
	kindDown      = "down"
	kindInbox     = "inbox"
)

func subject(node api.NodeID, kind string) string { return prefix + string(node) + "." + kind }

func signalSubject(node api.NodeID, way string, session api.SessionID, viewer string) string {
	return subject(node, way) + "." + string(session) + "." + viewer
}

// nodeOf gives the node a subject belongs to; "" when it is none of ours.
func nodeOf(subject string) api.NodeID {
	rest, ok := strings.CutPrefix(subject, prefix)
	if !ok {
		return ""
	}
	id, _, ok := strings.Cut(rest, ".")
	if !ok {
		return ""
	}
	return api.NodeID(id)
}

func checkNode(id api.NodeID) error {
	if !api.ValidID(string(id)) {
		return fmt.Errorf("node id %q cannot be part of a subject", id)
	}
	return nil
}

func checkSignal(s api.Signal) error {
	if !api.ValidID(string(s.Session)) || !api.ValidID(s.Viewer) {
		return fmt.Errorf("session %q or viewer %q of a signal cannot be part of a subject", s.Session, s.Viewer)
	}
	if len(s.Data) > api.MaxFrame {
		return api.Errorf(api.CodeTooLarge, "a signalling frame of %d bytes is over %d", len(s.Data), api.MaxFrame)
	}
	return nil
}
