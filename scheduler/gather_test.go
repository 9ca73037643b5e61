package scheduler

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// TestReadersShareAQuestion holds that nobody gets the answer of a question that
// was asked before they came.
func TestReadersShareAQuestion(t *testing.T) { synctest.Test(t, testReadersShareAQuestion) }

func testReadersShareAQuestion(t *testing.T) {
	var g gather
	var asked uint64 // of one question at a time
	how := func() (uint64, error) {
		asked++
		n := asked
		time.Sleep(10 * time.Millisecond) // a majority's answer
		return n, nil
	}
	var readers sync.WaitGroup
	first := func(want uint64) {
		readers.Go(func() {
			if n, err := g.ask(t.Context(), how); n != want || err != nil {
				t.Errorf("question %d was answered, %v; want %d", n, err, want)
			}
		})
	}
	first(1)
	synctest.Wait()
	for range 100 {
		first(2)
	}
	synctest.Wait()
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := g.ask(short, how); api.CodeOf(err) != api.CodeTimeout || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a reader without time: %v", err)
	}
	readers.Wait()
	g.close()
	if asked != 2 {
		t.Errorf("%d questions for 102 readers", asked)
	}
	if _, err := g.ask(t.Context(), how); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("after the end: %v", err)
	}
}
