package gateway

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/perigee-cloud/perigee/api"
)

// Latencies gives what viewers' streams measured.
type Latencies interface {
	// NodeLatency gives each node's histograms.
	NodeLatency() map[api.NodeID]*api.Latency
}

// stages shows the nodes' histograms at each scrape.
type stages struct{ from Latencies }

// Describe says nothing: which nodes there are is known at a scrape.
func (s stages) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector. Every second bound is shown: a
// series for each would be too many.
func (s stages) Collect(out chan<- prometheus.Metric) {
	d := prometheus.NewDesc("perigee_latency_seconds", "Where the time from an input to its picture goes; the stage total is all of it.",
		[]string{"node", "stage"}, nil)
	bounds := api.StageBounds()
	for node, l := range s.from.NodeLatency() {
		for stage, t := range l.Stages {
			buckets, below := make(map[float64]uint64, len(bounds)/2+1), uint64(0)
			for i, b := range bounds {
				below += t.Buckets[i]
				if i%2 == 0 {
					buckets[b/1000] = below
				}
			}
			out <- prometheus.MustNewConstHistogram(d, t.Count, t.SumMS/1000, buckets, string(node), string(stage))
		}
	}
}
