package scheduler

import (
	"errors"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func TestInstances(t *testing.T) {
	w := newWorld(t)
	w.app()
	e := w.edge("a", 2)
	w.edge("b", 2)
	ctx := w.ctx()
	ask := api.LaunchRequest{App: "xterm", Name: "lab", Tags: []string{"team=games"}, Streaming: true, Node: e.node.ID, Grant: api.Grant{Account: "alice"}}
	one, err := w.s.LaunchInstance(ctx, ask)
	if err != nil || one.Session.Node != e.node.ID || one.Name != "lab" || !one.Streaming || one.Session.Reserved == 0 {
		t.Fatalf("launched %+v, %v", one, err)
	}
	w.until(one.Session.ID, api.StatusActive)
	if a, err := w.s.JoinSession(ctx, one.Session.ID, api.JoinRequest{}); err != nil || a.Ticket == "" {
		t.Errorf("an instance first cannot be joined: %v", err)
	}
	bare, err := w.s.LaunchInstance(ctx, api.LaunchRequest{App: "xterm", Grant: api.Grant{Account: "alice"}})
	if err != nil || bare.Streaming || bare.Session.Reserved != 0 || bare.Session.Node == "" {
		t.Fatalf("launched %+v, %v", bare, err)
	}
	w.until(bare.Session.ID, api.StatusActive)
	if _, err := w.s.JoinSession(ctx, bare.Session.ID, api.JoinRequest{}); api.CodeOf(err) != api.CodeConflict || !strings.Contains(err.Error(), "enable_streaming") {
		t.Errorf("a join without a stream: %v", err)
	}
	if list, n, err := w.s.ListSessions(ctx, api.SessionQuery{}); err != nil || n != 1 || list[0].ID != one.Session.ID {
		t.Errorf("the sessions are %v, %v", list, err)
	}
	running := api.InstanceRunning
	list, n, err := w.s.ListInstances(ctx, api.InstanceQuery{Status: &running, Limit: 1})
	if err != nil || n != 2 || len(list) != 1 || list[0].Session.ID != one.Session.ID {
		t.Errorf("the instances are %v of %d, %v", list, n, err)
	}
	for name, want := range map[string]api.Code{"lab": "", string(bare.Session.ID): "", "none": api.CodeNotFound} {
		if _, err := w.s.Instance(ctx, "alice", name); api.CodeOf(err) != want {
			t.Errorf("instance %s: %v", name, err)
		}
	}
	if _, err := w.s.Instance(ctx, "bob", "lab"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("another account's instance: %v", err)
	}
	for field, c := range map[string]struct {
		change func(*api.LaunchRequest)
		code   api.Code
	}{
		"a name that is taken":  {func(r *api.LaunchRequest) {}, api.CodeConflict},
		"a bad name":            {func(r *api.LaunchRequest) { r.Name = "a b" }, api.CodeInvalid},
		"a name of ours":        {func(r *api.LaunchRequest) { r.Name = "ams-1" }, api.CodeInvalid},
		"a tag of ours":         {func(r *api.LaunchRequest) { r.Name, r.Tags = "x", []string{"session=1"} }, api.CodeInvalid},
		"an unknown node":       {func(r *api.LaunchRequest) { r.Name, r.Node = "x", "none" }, api.CodeNotFound},
		"an unknown app":        {func(r *api.LaunchRequest) { r.Name, r.App = "x", "none" }, api.CodeNotFound},
		"a screen out of range": {func(r *api.LaunchRequest) { r.Name, r.Screen.Width = "x", 9999 }, api.CodeInvalid},
		"more than the node has": {func(r *api.LaunchRequest) {
			r.Name, r.Screen = "x", api.Screen{Width: 3840, Height: 2160, FPS: 60}
		}, api.CodeNoCapacity},
	} {
		r := ask
		c.change(&r)
		if _, err := w.s.LaunchInstance(ctx, r); api.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", field, err, c.code)
		}
	}
	if _, err := w.s.InstanceLog(ctx, one.Session, api.LogQuery{}); err == nil {
		t.Error("an edge that shows no logs gives one")
	}
	if err := w.s.EndSession(ctx, bare.Session.ID, api.EndRequest{Wait: true}); err != nil {
		t.Fatal(err)
	}
	if i, err := w.s.Instance(ctx, "alice", string(bare.Session.ID)); err != nil || i.State() != api.InstanceDeleted {
		t.Errorf("after its end it is %v, %v", i, err)
	}
}

// TestGrantOfOneApplication holds that a token of one application changes, joins,
// shares and ends no session of another, of the same account either.
func TestGrantOfOneApplication(t *testing.T) {
	w := newWorld(t)
	w.app()
	w.edge("a", 2)
	ctx := w.ctx()
	a := w.mustCreate()
	id := w.until(a.Session.ID, api.StatusActive).ID
	g := api.Grant{Account: "alice", Rights: []api.Right{api.RightSessions}}
	protect := false
	calls := func(g api.Grant) (errs [4]error) {
		_, errs[0] = w.s.ChangeInstance(ctx, id, api.InstanceChange{Protected: &protect, Grant: g})
		_, errs[1] = w.s.JoinSession(ctx, id, api.JoinRequest{Grant: g})
		_, errs[2] = w.s.ShareSession(ctx, id, api.ShareRequest{Grant: g})
		errs[3] = w.s.EndSession(ctx, id, api.EndRequest{Wait: true, Grant: g})
		return errs
	}
	g.App = "other"
	for i, err := range calls(g) {
		if api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("call %d with another application's token: %v", i, err)
		}
	}
	g.App = "xterm"
	for i, err := range calls(g) {
		if err != nil {
			t.Errorf("call %d with its own application's token: %v", i, err)
		}
	}
}

// TestContainersNeedANodeForThem: placement and a named node refuse with a reason.
func TestContainersNeedANodeForThem(t *testing.T) {
	w := newWorld(t)
	ctx := w.ctx()
	if _, err := w.s.PutApplication(ctx, api.App{Name: "boxed", Kind: api.AppContainer, Image: "registry.example.com/x:1"}); err != nil {
		t.Fatal(err)
	}
	plain := w.edge("a", 2)
	for name, r := range map[string]api.LaunchRequest{
		"placed": {App: "boxed", Streaming: true}, "without a stream": {App: "boxed"}, "on a node": {App: "boxed", Streaming: true, Node: plain.node.ID},
	} {
		_, err := w.s.LaunchInstance(ctx, r)
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeNoCapacity || len(e.Refusals) != 1 || e.Refusals[0].Code != api.RefusedLabel || !strings.Contains(e.Refusals[0].Detail, "runs no containers") {
			t.Errorf("%s: %+v", name, err)
		}
	}
	k, v, _ := strings.Cut(api.LabelContainers, "=")
	able := w.edge("b", 4, func(n *api.Node) { n.Labels = map[string]string{k: v} })
	for name, r := range map[string]api.LaunchRequest{
		"placed": {App: "boxed", Streaming: true}, "without a stream": {App: "boxed"}, "on a node": {App: "boxed", Streaming: true, Node: able.node.ID},
	} {
		if one, err := w.s.LaunchInstance(ctx, r); err != nil || one.Session.Node != able.node.ID {
			t.Errorf("%s: %+v, %v", name, one, err)
		}
	}
}
