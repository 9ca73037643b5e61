package state

import (
	"fmt"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// BenchmarkApplyCreates applies entries of 256 creates, and of their ends, among
// 1,000 nodes: what each replica does for a session beside the log.
func BenchmarkApplyCreates(b *testing.B) {
	const many, nodes = 256, 1000
	s := New()
	apply := func(cmds ...Command) {
		next, results, err := s.Apply(EncodeAs(EntryVersion, epoch, cmds...))
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range results {
			if r.Err != nil {
				b.Fatal(r.Err)
			}
		}
		s = next
	}
	apply(app(b, "xterm", "xterm"), &Raise{Version: EntryVersion})
	for i := range nodes {
		apply(nodeWith(b, fmt.Sprint("n", i), 100, &api.Machine{CPUMillis: 1 << 30, MemoryMiB: 1 << 30, UplinkKbps: 1 << 30}))
	}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		creates, ends := make([]Command, many), make([]Command, many)
		for i := range many {
			n++
			c := creation(fmt.Sprint("s", n), fmt.Sprint("n", n%nodes))
			c.Parts = api.Parts{CPUMillis: 2000, MemoryMiB: 1024, UplinkKbps: 5000}
			creates[i] = c
			ends[i] = &Report{ID: c.ID, Generation: 1, Node: c.Node, Boot: "b", Seq: 1, Observed: api.ObservedStopped}
		}
		apply(creates...)
		apply(ends...)
	}
	b.ReportMetric(float64(b.Elapsed())/float64(time.Microsecond)/float64(n), "µs/session")
}
