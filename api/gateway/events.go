package gateway

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

// eventsEvery is how often the events' websocket looks at the instances.
const eventsEvery = 250 * time.Millisecond

// events tells by websocket what happens to the instances of the token's account.
func (s *Server) events(c *gin.Context) {
	if err := s.authorize(c, []api.Right{api.RightSessions}); err != nil {
		s.fail(c, err)
		return
	}
	q := api.InstanceQuery{Account: scope(grantOf(c))}
	kinds, err := eventKinds(c.Query("type"))
	var list []api.Instance
	switch {
	case err != nil:
	case s.cfg.Instances == nil:
		err = errNoInstances
	default:
		list, _, err = s.cfg.Instances.ListInstances(c.Request.Context(), q)
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	k, release, err := s.open(c)
	if errors.Is(err, errAnswered) {
		return
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	defer release()
	go func() { // what a client says is not for us; its going is
		defer k.cut()
		for {
			if _, err := k.read(); err != nil {
				return
			}
		}
	}()
	s.tellEvents(k, q, kinds, list)
}

func eventKinds(text string) (map[string]bool, error) {
	out := map[string]bool{"lifecycle": text == "", "operation": text == ""}
	for _, t := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
		if _, known := out[t]; !known {
			return nil, api.Invalidf("type", "%q is no kind of event; use lifecycle, operation", t)
		}
		out[t] = true
	}
	return out, nil
}

func (s *Server) tellEvents(k *socket, q api.InstanceQuery, kinds map[string]bool, list []api.Instance) {
	seen := states(list)
	tick := time.NewTicker(eventsEvery)
	defer tick.Stop()
	for {
		select {
		case <-k.ctx.Done():
			k.finish(ending{})
			return
		case <-tick.C:
		}
		if s.isDraining() {
			k.finish(ending{websocket.StatusGoingAway, "this gateway is going away; connect again"})
			return
		}
		list, _, err := s.cfg.Instances.ListInstances(k.ctx, q)
		if err != nil {
			continue // no leader for a moment: what happened is told afterwards
		}
		now := states(list)
		for n := range list {
			i := &list[n]
			if was, known := seen[i.Session.ID]; known && was == now[i.Session.ID] {
				continue
			}
			for _, e := range eventsOf(i, time.Now()) {
				if kinds[e.Type] && k.send(eventFrame(e)) != nil {
					k.finish(ending{})
					return
				}
			}
		}
		seen = now
	}
}

type seenState struct {
	state    api.InstanceState
	stopping bool
}

func states(list []api.Instance) map[api.SessionID]seenState {
	out := make(map[api.SessionID]seenState, len(list))
	for n := range list {
		i := &list[n]
		out[i.Session.ID] = seenState{i.State(), i.Session.Desired == api.DesiredStop}
	}
	return out
}

// eventsOf are what a change of an instance is told as.
func eventsOf(i *api.Instance, now time.Time) []api.EventView {
	words := map[api.InstanceState]string{
		api.InstanceCreated: "created", api.InstancePrepared: "scheduled", api.InstanceStarted: "started", api.InstanceRunning: "running",
		api.InstanceStopped: "stopped", api.InstanceDeleted: "removed", api.InstanceError: "failed",
	}
	action := api.OperationStart
	if i.Session.Desired == api.DesiredStop {
		action = api.OperationStop
	}
	return []api.EventView{
		{Type: "lifecycle", Timestamp: now.UTC(), Metadata: api.LifecycleEvent{Action: "instance-" + words[i.State()], Source: instancePath(i.Session.ID)}},
		{Type: "operation", Timestamp: now.UTC(), Metadata: i.Operation(action)},
	}
}

func eventFrame(e api.EventView) []byte {
	b, _ := json.Marshal(e) // words, numbers and times: cannot fail
	return b
}
