package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestFinishedSessionsAreKeptADay(t *testing.T) {
	r := newRig(t)
	for i := range 3 * chunkSize {
		c := creation(string(rune('A'+i%26))+strings.Repeat("x", i/26), "n1")
		r.do(c)
		r.report(string(c.ID), api.ObservedStopped, 1)
	}
	count := func() int {
		n := 0
		for range r.s.Finished() {
			n++
		}
		return n
	}
	if count() != 3*chunkSize || len(r.s.finished.chunks) != 3 {
		t.Fatalf("%d finished sessions in %d chunks", count(), len(r.s.finished.chunks))
	}
	r.now = r.now.Add(Keep - time.Duration(3*chunkSize)*time.Second) // the first chunk is older than a day
	r.do(&Tick{})
	if count() != 2*chunkSize {
		t.Errorf("%d finished sessions are left, want %d", count(), 2*chunkSize)
	}
	if _, ok := r.s.Session("A"); ok {
		t.Error("a session of yesterday is still known")
	}
	r.now = r.now.Add(Keep)
	r.do(&Tick{})
	if count() != 0 || r.s.finished.records.Len() != 0 {
		t.Errorf("%d finished sessions and %d records are left", count(), r.s.finished.records.Len())
	}
}

// TestFinishedSessionsAreBounded forgets the oldest before a day is over when
// there are too many.
func TestFinishedSessionsAreBounded(t *testing.T) {
	var f finished
	var forgotten []string
	for i := range 3*chunkSize + 10 {
		s := &Session{Session: api.Session{ID: api.SessionID(fmt.Sprint("s", i)), Account: "a", EndedAt: epoch}, Key: fmt.Sprint("k", i)}
		forgotten = append(forgotten, f.add(uint64(1+i/7), s, 2*chunkSize)...)
	}
	left := slices.Collect(f.ids())
	if len(left) != chunkSize+10 || left[0] != api.SessionID(fmt.Sprint("s", 2*chunkSize)) || len(forgotten) != 2*chunkSize || forgotten[0] != idemKey("a", "k0") {
		t.Errorf("%d are left from %s on, %d keys are forgotten", len(left), left[0], len(forgotten))
	}
	if old, young := (&tx{entry: 1}).maxFinished(), (&tx{entry: 2}).maxFinished(); old != 200_000 || young < 1_000_000 {
		t.Errorf("entries of version 1 keep %d, of version 2 %d", old, young)
	}
	newest := slices.Collect(f.newest())
	slices.Reverse(newest)
	if !slices.Equal(newest, left) {
		t.Error("from the newest on there are others")
	}
}

func TestDemandIsBounded(t *testing.T) {
	r := newRig(t)
	minute := epoch.Unix() / 60
	for i := range maxDemand + 10 {
		r.do(&Demand{Cells: []api.DemandCell{{Minute: minute + int64(i), App: "xterm", Count: 1}}})
	}
	cells := r.s.Demand()
	if len(cells) != maxDemand || cells[0].Minute != minute+10 {
		t.Errorf("%d cells from minute %d are kept, want %d from %d", len(cells), cells[0].Minute, maxDemand, minute+10)
	}
	r.now = r.now.Add(3 * Keep)
	r.do(&Tick{})
	if left := len(r.s.Demand()); left != 0 {
		t.Errorf("%d cells of days ago are left", left)
	}
}
