package bus

import (
	"context"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

// TestRoutesChangeWhileServing holds that replicas find each other, and lose
// each other, without a restart.
func TestRoutesChangeWhileServing(t *testing.T) {
	known := func([]byte) bool { return true }
	alone := ServerConfig{Listen: "127.0.0.1:0", Known: known, Cluster: "127.0.0.1:0", ClusterSecret: "k"}
	a, b := startServer(t, alone), startServer(t, alone)
	edge := dial(t, Config{URLs: []string{a.URL()}, Seed: seedOf(1)})
	must(t, edge.OnCommand(func(context.Context, api.Command) api.Ack { return api.Ack{OK: true} }))
	scheduler := dial(t, b.InProcess())
	if _, err := scheduler.Command(t.Context(), edge.Node(), api.Command{Verb: api.VerbStop}); err == nil {
		t.Fatal("two servers without routes are one bus")
	}
	must(t, b.SetRoutes([]string{a.ClusterAddr().String()}))
	reach(t, scheduler, edge.Node())
	for _, pair := range [][2]*Server{{a, b}, {b, a}} {
		routed, err := pair[0].Routed()
		must(t, err)
		if !routed[pair[1].ID()] || len(routed) != 1 {
			t.Errorf("routed to %v, not to %s alone", routed, pair[1].ID())
		}
	}
	must(t, b.SetRoutes([]string{a.ClusterAddr().String()})) // nothing new
	reach(t, scheduler, edge.Node())
	must(t, b.SetRoutes(nil))
	eventually(t, "the way to the edge is gone", func() bool {
		_, err := scheduler.Command(t.Context(), edge.Node(), api.Command{Verb: api.VerbStop})
		return err != nil
	})
	single := startServer(t, ServerConfig{Listen: "127.0.0.1:0", Known: known})
	if err := single.SetRoutes([]string{"127.0.0.1:1"}); err == nil {
		t.Error("a server without a cluster takes routes")
	}
}
