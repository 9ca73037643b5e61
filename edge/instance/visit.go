package instance

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

const (
	maxVisits    = 8                // at once in one instance
	visitSilence = 90 * time.Second // without a word of the other end: it has gone
	visitLinger  = 5 * time.Second  // for the last message to be acknowledged
	visitSignals = 128              // waiting for their visit; they are sent again
	visitKept    = 256              // ended ones that are still answered
)

// visits are those who have entered the instance: by commands that run beside
// the application, and by files. Each ends with its link, or with the instance.
type visits struct {
	tell func(api.Signal)
	log  *slog.Logger

	mu   sync.Mutex // guards the fields below
	room *room      // nil = the application does not run
	all  map[string]*visit
	gone []string // of the last that ended
	over bool
	wg   sync.WaitGroup // added to under mu, and not after over
}

// room is where a visit goes on: a running application's sandbox.
type room struct {
	box  boxConfig
	app  *application
	left chan struct{} // closed when it is one no more
}

func newVisits(tell func(api.Signal), log *slog.Logger) *visits {
	return &visits{tell: tell, log: log, all: map[string]*visit{}}
}

// open lets visits into the sandbox of a running application; whoever is in
// the one before is thrown out.
func (v *visits) open(box boxConfig, app *application) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.leaveLocked()
	v.room = &room{box: box, app: app, left: make(chan struct{})}
}

// leave ends the visits: the application has ended.
func (v *visits) leave() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.leaveLocked()
}

func (v *visits) leaveLocked() {
	if v.room != nil {
		close(v.room.left)
		v.room = nil
	}
}

// close ends all and waits until they have told it.
func (v *visits) close() {
	v.mu.Lock()
	v.leaveLocked()
	v.over = true
	v.mu.Unlock()
	v.wg.Wait()
}

// signal takes what the other end of a link sends. The first one opens it.
func (v *visits) signal(s api.Signal) {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.all[s.Viewer]
	if t == nil {
		if why := v.refusalLocked(s); why != "" {
			if answer, ok := api.RefuseSignal(s, why); ok {
				v.tell(answer)
			}
			return
		}
		t = &visit{
			id: s.Viewer, tell: v.tell, log: v.log.With("visit", s.Viewer), room: v.room, link: api.NewLink(s),
			in: make(chan api.Signal, visitSignals), out: make(chan []byte, 4), done: make(chan struct{}),
			input: newFeed(), control: make(chan api.EnterControl, 8),
		}
		v.all[s.Viewer] = t
		v.wg.Go(func() {
			t.run()
			v.forget(t.id)
		})
	}
	select {
	case t.in <- s:
	default: // it is sent again
	}
}

func (v *visits) refusalLocked(s api.Signal) string {
	switch {
	case v.over || v.room == nil:
		return "the instance's application does not run"
	case len(v.all) >= maxVisits:
		return "8 commands and files go on in the instance already: wait for one to end"
	case s.Kind != api.SignalOpen || slices.Contains(v.gone, s.Viewer):
		return "it has ended"
	}
	return ""
}

func (v *visits) forget(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.all, id)
	v.gone = append(v.gone, id)
	v.gone = v.gone[max(0, len(v.gone)-visitKept):]
}

// visit is one link and what goes on for it. All fields are of run's goroutine,
// but the channels, and input, which has its own lock.
type visit struct {
	id   string
	tell func(api.Signal)
	log  *slog.Logger
	room *room
	link *api.Link

	in   chan api.Signal
	out  chan []byte   // frames towards the other end; closed by work when it has ended
	done chan struct{} // closed when the other end has gone: work ends

	input   *feed
	control chan api.EnterControl
	pending []byte // a frame that the full link did not take
	begun   bool
	heard   time.Time
	leaving time.Time // since when only the last words are under way
}

// run pumps until the link is over.
func (t *visit) run() {
	t.heard = time.Now()
	var work sync.WaitGroup
	defer work.Wait()
	defer t.input.close(api.Errorf(api.CodeUnavailable, "the other end has gone"))
	gone := sync.OnceFunc(func() { close(t.done) })
	defer gone()
	timer := time.NewTimer(0)
	defer timer.Stop()
	out := t.out
	left := t.room.left
	for {
		now := time.Now()
		for _, s := range t.link.Due(now) {
			t.tell(s)
		}
		_, closed := t.link.Closed()
		switch {
		case closed, t.link.Stalled(now), now.Sub(t.heard) > visitSilence,
			!t.leaving.IsZero() && (t.link.Drained() || now.Sub(t.leaving) > visitLinger):
			return
		}
		timer.Reset(t.next(now))
		from := out
		if t.pending != nil {
			from = nil
		}
		select {
		case <-timer.C:
		case <-left:
			left = nil
			gone()
			t.input.close(api.Errorf(api.CodeConflict, "the application has ended"))
		case s := <-t.in:
			t.heard = now
			for _, frame := range t.receive(s) {
				t.take(frame, &work)
			}
			t.send(t.pending)
		case frame, more := <-from:
			if !more {
				out, t.leaving = nil, now
				t.link.Close("")
				continue
			}
			t.send(frame)
		}
	}
}

func (t *visit) next(now time.Time) time.Duration {
	wait := time.Second
	if at, ok := t.link.Next(); ok {
		wait = min(wait, at.Sub(now))
	}
	return max(wait, 0)
}

// receive takes a signal; while much input waits, only its acknowledgement, as
// a command that reads nothing may yet write.
func (t *visit) receive(s api.Signal) [][]byte {
	if t.input.full() && s.Kind != api.SignalClose {
		s.Kind, s.Seq, s.Data = api.SignalAck, 0, nil
	}
	return t.link.Receive(s)
}

func (t *visit) send(frame []byte) {
	if frame == nil {
		return
	}
	t.pending = nil
	if err := t.link.Send(frame); errors.Is(err, api.ErrLinkFull) {
		t.pending = frame
	}
}

// take takes a frame of the other end: the first says what to do.
func (t *visit) take(frame []byte, work *sync.WaitGroup) {
	if !t.begun {
		t.begun = true
		work.Go(func() {
			defer close(t.out)
			t.say(t.work(frame).Frame())
		})
		return
	}
	if c, ok := api.ParseEnterControl(frame); ok {
		switch c.Type {
		case api.EnterEnd:
			t.input.close(nil)
		case api.EnterResize:
			select {
			case t.control <- c:
			default: // a later one comes
			}
		}
		return
	}
	if len(frame) > 1 && frame[0] == api.EnterInput {
		t.input.put(frame[1:])
	}
}

// say queues a frame; false when nobody takes it any more.
func (t *visit) say(frame []byte) bool {
	select {
	case t.out <- frame:
		return true
	case <-t.done:
	}
	select { // the last words, if there is room
	case t.out <- frame:
		return true
	default:
		return false
	}
}
