package bus

import (
	"hash/maphash"
	"sync"
)

const (
	nodeLanes      = 8
	schedulerLanes = 64 // handlers wait for a commit, in one lane one after the other
	laneDepth      = 128
)

// lanes run handlers: work of one key in order, of different keys side by
// side, so that a slow handler holds back its own lane only.
type lanes struct {
	seed maphash.Seed
	work []chan func()
	done chan struct{}
	wg   sync.WaitGroup
}

func newLanes(count int) *lanes {
	l := &lanes{seed: maphash.MakeSeed(), work: make([]chan func(), count), done: make(chan struct{})}
	for i := range l.work {
		l.work[i] = make(chan func(), laneDepth)
		l.wg.Go(func() { l.serve(l.work[i]) })
	}
	return l
}

func (l *lanes) serve(work chan func()) {
	for {
		select {
		case <-l.done:
			return
		case f := <-work:
			f()
		}
	}
}

// add queues f behind the work of the same key; false when its lane is full.
func (l *lanes) add(key string, f func()) bool {
	select {
	case l.work[maphash.String(l.seed, key)%uint64(len(l.work))] <- f:
		return true
	default:
		return false
	}
}

// close lets running handlers end and drops the rest.
func (l *lanes) close() {
	close(l.done)
	l.wg.Wait()
}
