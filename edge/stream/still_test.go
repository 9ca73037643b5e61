package stream

import (
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// TestStill follows what is watched through input, changes and absence.
func TestStill(t *testing.T) {
	start := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	type step struct {
		minute        int
		there         bool
		inputs, drawn uint64
		left          int // minutes; 99 = never
	}
	for name, c := range map[string]struct {
		policy api.IdlePolicy
		steps  []step
	}{
		"off": {api.IdlePolicy{Minutes: 5}, []step{{0, true, 0, 0, 99}, {60, true, 0, 0, 99}}},
		"by input alone": {api.IdlePolicy{InputMinutes: 10}, []step{
			{0, true, 0, 0, 10}, {5, true, 0, 50, 5}, {6, true, 1, 60, 10}, {16, true, 1, 90, 0},
		}},
		"by picture alone": {api.IdlePolicy{PictureMinutes: 10}, []step{
			{0, true, 0, 0, 10}, {5, true, 7, 0, 5}, {6, true, 9, 1, 10}, {16, true, 99, 1, 0},
		}},
		"by both: the later of the two": {api.IdlePolicy{InputMinutes: 10, PictureMinutes: 3}, []step{
			{0, true, 0, 0, 10}, {9, true, 0, 5, 3}, {11, true, 0, 5, 1}, {11, true, 1, 5, 10}, {20, true, 1, 9, 3}, {23, true, 1, 9, 0},
		}},
		"nobody is there": {api.IdlePolicy{InputMinutes: 10}, []step{
			{0, true, 0, 0, 10}, {9, false, 0, 0, 99}, {30, false, 0, 0, 99}, {31, true, 0, 0, 9}, {40, true, 0, 0, 0},
		}},
		"the encode process began anew": {api.IdlePolicy{PictureMinutes: 10}, []step{{0, true, 0, 50, 10}, {9, true, 0, 1, 10}, {19, true, 0, 1, 0}}},
	} {
		var s still
		for _, x := range c.steps {
			left := s.look(c.policy, start.Add(time.Duration(x.minute)*time.Minute), x.there, x.inputs, x.drawn)
			got := 99
			if left < 24*time.Hour {
				got = int(left / time.Minute)
			}
			if got != x.left {
				t.Errorf("%s: at minute %d %d minutes are left, not %d", name, x.minute, got, x.left)
			}
		}
	}
}
