package scheduler

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestShareLetsOthersInAndOut(t *testing.T) { synctest.Test(t, testShareLetsOthersInAndOut) }

func testShareLetsOthersInAndOut(t *testing.T) {
	w := newWorld(t)
	w.app()
	e := w.edge("one", 4)
	a := w.mustCreate()
	id := a.Session.ID
	w.until(id, api.StatusActive)
	mine := api.Grant{Account: a.Session.Account, Rights: []api.Right{api.RightSessions}}
	x, err := w.s.ShareSession(w.ctx(), id, api.ShareRequest{Seat: api.Seat{Role: api.RoleControl, Rights: []api.ViewerRight{api.MayInput}}, Grant: mine})
	if err != nil {
		t.Fatal(err)
	}
	if life := x.Share.ExpiresAt.Sub(x.Share.CreatedAt).Round(time.Minute); life != api.ShareLifeDefault {
		t.Errorf("a share lives %s", life)
	}
	if _, _, err := w.s.CheckTicket(w.ctx(), x.Token); api.CodeOf(err) != api.CodeUnauthorized {
		t.Errorf("a share's link opens a websocket: %v", err)
	}
	b, err := w.s.ConnectShare(w.ctx(), id, x.Token)
	if err != nil {
		t.Fatal(err)
	}
	ticket, _, err := w.s.CheckTicket(w.ctx(), b.Ticket)
	if err != nil || ticket.Share != 1 || ticket.Role != api.RoleControl || !slices.Equal(ticket.Rights, x.Share.Seat.Rights) {
		t.Errorf("ticket %+v: %v", ticket, err)
	}
	// The session's own client is not cut by it, and a join does not cut the guest.
	if _, _, err := w.s.CheckTicket(w.ctx(), a.Ticket); err != nil {
		t.Errorf("the client's ticket: %v", err)
	}
	if _, err := w.s.JoinSession(w.ctx(), id, api.JoinRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.s.CheckTicket(w.ctx(), b.Ticket); err != nil {
		t.Errorf("the guest's ticket after a join: %v", err)
	}
	other := api.Grant{Account: "mallory", Rights: []api.Right{api.RightSessions}}
	if err := w.s.RevokeShare(w.ctx(), x.Share.ID(), other); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("another account revokes it: %v", err)
	}
	if _, err := w.s.ShareSession(w.ctx(), id, api.ShareRequest{Grant: other}); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("another account shares the session: %v", err)
	}
	told := func() (last api.ShareList) {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, c := range e.commands {
			if c.Verb == api.VerbShares {
				last = *c.Shares
			}
		}
		return last
	}
	w.eventually("the edge knows the share", func() bool { return told().Admits(1) && told().Last == 1 })
	e.mu.Lock()
	e.drop = 2 // what is lost on the way is sent again
	e.mu.Unlock()
	if err := w.s.RevokeShare(w.ctx(), x.Share.ID(), mine); err != nil {
		t.Fatal(err)
	}
	w.eventually("the edge cuts the guest", func() bool { return !told().Admits(1) })
	if _, err := w.s.ConnectShare(w.ctx(), id, x.Token); api.CodeOf(err) != api.CodeUnauthorized {
		t.Errorf("a revoked share admits: %v", err)
	}
	if _, _, err := w.s.CheckTicket(w.ctx(), b.Ticket); api.CodeOf(err) != api.CodeUnauthorized {
		t.Errorf("a ticket of a revoked share admits: %v", err)
	}
}

func TestSharesExpire(t *testing.T) { synctest.Test(t, testSharesExpire) }

func testSharesExpire(t *testing.T) {
	w := newWorld(t)
	w.app()
	w.edge("one", 4)
	a := w.mustCreate()
	id := a.Session.ID
	w.until(id, api.StatusActive)
	share := func(life time.Duration) (api.Shared, error) {
		return w.s.ShareSession(w.ctx(), id, api.ShareRequest{Expires: w.s.now().Add(life), Seat: api.Seat{Role: api.RoleViewer}})
	}
	if _, err := share(-time.Second); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a share of the past: %v", err)
	}
	if _, err := share(31 * 24 * time.Hour); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a share of 31 days: %v", err)
	}
	short, err := share(10 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	long, err := share(10 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	at, text := w.s.now().Add(time.Hour), "longer"
	if long, err = w.s.ChangeShare(w.ctx(), long.Share.ID(), api.ShareChange{Expires: &at, Description: &text}); err != nil || long.Share.Description != text {
		t.Fatalf("%+v: %v", long, err)
	}
	time.Sleep(11 * time.Second)
	if _, err := w.s.ConnectShare(w.ctx(), id, short.Token); api.CodeOf(err) != api.CodeUnauthorized {
		t.Errorf("an expired share admits: %v", err)
	}
	if _, err := w.s.ConnectShare(w.ctx(), id, long.Token); err != nil {
		t.Errorf("a share that was given more time: %v", err)
	}
	time.Sleep(tickEvery)
	w.eventually("the expired one is dropped", func() bool {
		list, total, err := w.s.ListShares(w.ctx(), api.ShareQuery{Session: id})
		return err == nil && total == 1 && list[0].Number == 2
	})
}
