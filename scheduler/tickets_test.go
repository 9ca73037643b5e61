package scheduler

import (
	"crypto/ed25519"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

func TestTicketsOfOneMoment(t *testing.T) {
	for _, version := range []int{ticketsSince - 1, state.EntryVersion} {
		synctest.Test(t, func(t *testing.T) { testTicketsOfOneMoment(t, version) })
	}
}

// Every ticket admits to its own session, however many are asked for at once, and
// one that is asked for alone does not wait for others. None is in the new form
// while a replica may not know that.
func testTicketsOfOneMoment(t *testing.T, version int) {
	w := newWorld(t, func(c *Config) { c.EntryVersion = version })
	w.app()
	w.edge("one", 1000)
	const n = 3*api.MaxTickets + 1
	texts := make([]string, n)
	var callers sync.WaitGroup
	for i := range n {
		callers.Go(func() {
			a, err := w.create()
			if err != nil {
				t.Errorf("create %d: %v", i, err)
				return
			}
			texts[i] = a.Ticket
			if _, v, err := w.s.CheckTicket(w.ctx(), a.Ticket); err != nil || v.ID != a.Session.ID {
				t.Errorf("the ticket of create %d: %v, for %q of %q", i, err, v.ID, a.Session.ID)
			}
		})
	}
	callers.Wait()
	shared := 0
	for _, text := range texts {
		shared += min(max(strings.Count(text, ".")-1, 0), 1)
	}
	if version < ticketsSince && shared > 0 {
		t.Errorf("%d tickets share a signature where entries have version %d", shared, version)
	}
	if a := w.mustCreate(); strings.Count(a.Ticket, ".") != 1 {
		t.Errorf("one ticket alone is %q", a.Ticket)
	}
	if w.s.tickets.open != nil {
		t.Error("tickets are still collected")
	}
}

// The desk gives each caller its own ticket, and a group that is full is signed
// by who filled it.
func TestTicketDesk(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	var d ticketDesk
	now := time.Unix(1_800_000_000, 0)
	held := &signing{done: make(chan struct{})}
	for i := range api.MaxTickets - 1 {
		held.list = append(held.list, api.Ticket{Viewer: uint32(i), Expires: now.Unix()})
	}
	d.open = held
	var callers sync.WaitGroup
	for i := range 50 {
		callers.Go(func() {
			want := api.Ticket{Session: "s", Viewer: uint32(1000 + i), Expires: now.Unix()}
			if got, err := api.ParseTicket(d.sign(private, want), public, now); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("ticket %d: %+v, %v", i, got, err)
			}
		})
	}
	callers.Wait()
	if len(held.texts) != api.MaxTickets || d.open != nil {
		t.Errorf("the group that lacked one has %d texts, and %v is open", len(held.texts), d.open)
	}
	for i, text := range held.texts[:api.MaxTickets-1] {
		if got, err := api.ParseTicket(text, public, now); err != nil || !reflect.DeepEqual(got, held.list[i]) {
			t.Errorf("ticket %d of the first group: %+v, %v", i, got, err)
		}
	}
}
