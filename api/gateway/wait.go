package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// Frames of ours on the slave websocket; the contract's clients ignore types
// that they do not know, and only who asked to wait gets them.
const (
	frameQueue  = "perigee.queue"
	framePlaced = "perigee.placed"
)

// queueFrame tells a waiting client where it stands.
type queueFrame struct {
	Type string `json:"type"`
	api.QueuePlace
}

// placedFrame tells it that its session has a node, and that node's relays,
// which the answer to the create could not know.
type placedFrame struct {
	Type        string            `json:"type"`
	STUNServers []api.ICEServer   `json:"stun_servers"`
	Perigee     api.SessionDetail `json:"perigee"`
}

// wait tells the client its place in the queue until the session has a node,
// which it then knows; the open websocket keeps the place.
func (p *pump) wait(ctx context.Context, sess *api.Session) error {
	var told api.QueuePlace
	for sess.Queue != nil {
		if now := *sess.Queue; now.Position != told.Position || now.Length != told.Length || now.EtaS != told.EtaS {
			told = now
			if err := p.tell(queueFrame{frameQueue, now}); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(p.s.timing.watch):
		}
		next, err := p.s.cfg.Sessions.Session(ctx, sess.ID)
		switch {
		case api.CodeOf(err) == api.CodeNotFound:
			return err
		case err != nil:
			continue // no leader for the moment: look again
		}
		if why := endedText(&next); why != "" {
			return api.Errorf(api.CodeConflict, "%s", why)
		}
		*sess = next
	}
	p.seated.Do(func() { close(p.placed) })
	if told.Position == 0 {
		return nil // told before, by an earlier try
	}
	return p.tell(placedFrame{framePlaced, iceServers(p.s.cfg.Cluster.Relays(*sess)), detail(sess, api.Grant{})})
}

func (p *pump) tell(frame any) error {
	b, err := json.Marshal(frame)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	if err := p.k.send(b); err != nil {
		return fmt.Errorf("%w: %w", errClientGone, err)
	}
	return nil
}

// leaveQueue gives a place in the queue back whose client has gone. One that a
// fault of ours cut off may come back.
func (p *pump) leaveQueue(e ending) {
	if p.placed == nil || e.message != "" {
		return
	}
	select {
	case <-p.placed:
		return
	case <-p.s.drain:
		return
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.s.cfg.RequestTimeout)
	defer cancel()
	if err := p.s.cfg.Sessions.EndSession(ctx, p.session.ID, api.EndRequest{Reason: api.ReasonClientLeft}); err != nil {
		p.s.log.Warn("place in the queue could not be given back", "session", p.session.ID, "error", err)
	}
}
