package scheduler

import (
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func TestSessionLivesAndEnds(t *testing.T) {
	w := newWorld(t)
	w.app()
	e := w.edge("one", 4)
	a := w.mustCreate()
	if a.Session.Status() != api.StatusCreated && a.Session.Status() != api.StatusActive {
		t.Fatalf("a new session is %s", a.Session.Status())
	}
	ticket, v, err := w.s.CheckTicket(w.ctx(), a.Ticket)
	if err != nil || ticket.Viewer != 1 || v.Node != e.node.ID || ticket.Role != api.RoleControl {
		t.Fatalf("ticket %+v of %+v: %v", ticket, v, err)
	}
	w.until(a.Session.ID, api.StatusActive)
	if err := w.s.EndSession(w.ctx(), a.Session.ID, api.EndRequest{Wait: true}); err != nil {
		t.Fatal(err)
	}
	end := w.until(a.Session.ID, api.StatusTerminated)
	if end.Reason != api.ReasonDeleted || end.EndedAt.IsZero() {
		t.Errorf("ended as %+v", end)
	}
	n, _ := w.s.root().Node(e.node.ID)
	if used, sessions := n.Reserved(api.PoolCPU); used != 0 || sessions != 0 {
		t.Errorf("%d macroblocks/s and %d sessions are still reserved", used, sessions)
	}
	if _, over, err := w.s.CheckTicket(w.ctx(), a.Ticket); err != nil || over.Status() != api.StatusTerminated {
		t.Errorf("ticket of an ended session: %s, %v", over.Status(), err)
	}
}
