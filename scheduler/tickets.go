package scheduler

import (
	"crypto/ed25519"
	"runtime"
	"sync"

	"github.com/perigee-cloud/perigee/api"
)

// ticketsSince is the version of entries from which on tickets that are asked
// for together share a signature: every replica checks such ones then.
const ticketsSince = 3

// ticketDesk signs tickets, those that are asked for at one time together. The
// zero one is ready.
type ticketDesk struct {
	mu   sync.Mutex
	open *signing // which takes more; nil = none
}

// signing is tickets that share a signature.
type signing struct {
	list  []api.Ticket
	texts []string
	done  chan struct{}
}

// sign gives a ticket's text. Who comes first lets those go ahead who can run at
// once, as all of a batch can that was just committed; with nobody else there it
// waits for nothing.
func (d *ticketDesk) sign(key ed25519.PrivateKey, t api.Ticket) string {
	d.mu.Lock()
	b := d.open
	first := b == nil
	if first {
		b = &signing{list: make([]api.Ticket, 0, api.MaxTickets), done: make(chan struct{})}
		d.open = b
	}
	at := len(b.list)
	b.list = append(b.list, t)
	last := len(b.list) == api.MaxTickets
	if last {
		d.open = nil
	}
	d.mu.Unlock()
	if first {
		runtime.Gosched()
		d.mu.Lock()
		if last = d.open == b; last {
			d.open = nil
		}
		d.mu.Unlock()
	}
	if last {
		b.texts = api.SignTickets(key, b.list)
		close(b.done)
	}
	<-b.done
	return b.texts[at]
}
