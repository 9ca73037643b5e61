package edge

import (
	"testing"
	"time"
)

// TestUnansweredHeartbeatsMoveTheBus holds that a node whose server of the bus
// is cut off from the leader tries another, less and less often, and at once
// again after the next silence.
func TestUnansweredHeartbeatsMoveTheBus(t *testing.T) {
	w := newWorld(t)
	moved := func() (n int) {
		w.bus.set(func() { n = w.bus.moved })
		return n
	}
	if n := moved(); n != 0 {
		t.Errorf("moved %d times while all is well", n)
	}
	w.bus.set(func() { w.bus.deaf = true })
	until(t, "second move", 5*time.Second, func() bool { return moved() == 2 })
	w.bus.set(func() { w.bus.deaf, w.bus.beats = false, nil })
	until(t, "answered heartbeat", 5*time.Second, func() bool { return w.bus.is(func() bool { return len(w.bus.beats) > 1 }) })
	w.bus.set(func() { w.bus.deaf, w.bus.moved = true, 0 })
	begun := time.Now()
	until(t, "move", 5*time.Second, func() bool { return moved() == 1 })
	if took := time.Since(begun); took < (moveAfter-1)*w.cfg.HeartbeatEvery {
		t.Errorf("moved after %s, before %d heartbeats went unanswered", took, moveAfter)
	}
	w.bus.set(func() { w.bus.deaf = false })
}
