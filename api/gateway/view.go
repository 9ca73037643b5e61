package gateway

import (
	"fmt"
	"slices"

	"github.com/perigee-cloud/perigee/api"
)

// view shows a session as the wire contract does, with ours under "perigee".
func view(s *api.Session, g api.Grant) api.SessionView {
	v := api.SessionView{
		ID: s.ID, App: s.App, Region: s.Region, ClusterID: s.Region, Joinable: s.Joinable,
		Status: s.Status(), StatusMessage: statusMessage(s), Perigee: detail(s, g),
	}
	if s.Observed != api.ObservedNone {
		v.ContainerID = fmt.Sprintf("%s.%d", s.ID, s.Generation)
	}
	return v
}

func detail(s *api.Session, g api.Grant) api.SessionDetail {
	d := api.SessionDetail{
		Node: s.Node, Region: s.Region, Rank: s.Placement.Rank, Generation: s.Generation,
		DistanceKM: known(s.Placement.DistanceKM), EstimateMS: known(s.Placement.EstimateMS),
		Codec: s.Codec, Pool: s.Pool, AppVersion: s.AppVersion, Screen: s.Screen,
		ExtraMS: s.Placement.ExtraMS, Step: s.Placement.Step, Preset: s.Preset, Queue: s.Queue,
		Reason: s.Reason, Connected: s.Connected, CreatedAt: s.CreatedAt, EndedAt: s.EndedAt, Latency: s.Latency, Warm: s.Warm, FromPool: s.FromPool,
	}
	if g.Can(api.RightAdmin) {
		d.Account = s.Account
	}
	return d
}

// known turns the negative number that means "unknown" into null.
func known(v float64) *float64 {
	if v < 0 {
		return nil
	}
	return &v
}

// iceServers makes sure that clients get arrays: null stops the SDK.
func iceServers(list []api.ICEServer) []api.ICEServer {
	if list != nil && !slices.ContainsFunc(list, func(s api.ICEServer) bool { return len(s.URLs) == 0 }) {
		return list
	}
	out := make([]api.ICEServer, 0, len(list))
	for _, s := range list {
		if len(s.URLs) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// statusMessage says in a sentence why a session is as it is; "" while all is well.
func statusMessage(s *api.Session) string {
	text := reasonText(s.Reason)
	switch {
	case text == "":
		return s.Message
	case s.Message == "":
		return text
	default:
		return text + ": " + s.Message
	}
}

func reasonText(r api.Reason) string {
	switch r {
	case api.ReasonNone:
		return ""
	case api.ReasonDeleted:
		return "the session was deleted"
	case api.ReasonIdle:
		return "nobody was connected for the session's idle time"
	case api.ReasonClientLeft:
		return "the client left and the session is not joinable"
	case api.ReasonNeverConnected:
		return "no client connected in time"
	case api.ReasonNodeLost:
		return "the node that runs the session is not heard any more"
	case api.ReasonStartFailed:
		return "the application could not be started"
	case api.ReasonAppExited:
		return "the application ended"
	case api.ReasonAppCrashed:
		return "the application crashed"
	case api.ReasonAppHung:
		return "the application did not draw anything in time"
	case api.ReasonStreamFailed:
		return "the stream failed"
	case api.ReasonSuperseded:
		return "the session went on elsewhere"
	case api.ReasonInactive:
		return "nothing was done and nothing changed for the application's time"
	case api.ReasonReleased:
		return "its pool does not keep the instance any more"
	case api.ReasonNoCapacity:
		return "no room came while the session could wait"
	default:
		return string(r)
	}
}
