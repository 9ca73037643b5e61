package bus

import (
	"context"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

// TestMoveTakesAnotherServer holds that a node leaves a server that nobody
// answers by, and stays where there is no other.
func TestMoveTakesAnotherServer(t *testing.T) {
	config := ServerConfig{Listen: "127.0.0.1:0", Known: func([]byte) bool { return true }}
	a, b := startServer(t, config), startServer(t, config) // two that do not know each other, as in a cut
	scheduler := dial(t, b.InProcess())
	edge := dial(t, Config{URLs: []string{a.URL(), b.URL()}, Seed: seedOf(1)})
	if edge.nc.ConnectedServerId() == b.ID() {
		edge.Move()
		eventually(t, "it is at the first", func() bool { return edge.nc.IsConnected() && edge.nc.ConnectedServerId() == a.ID() })
	}
	must(t, edge.OnCommand(func(context.Context, api.Command) api.Ack { return api.Ack{OK: true} }))
	if _, err := scheduler.Command(t.Context(), edge.Node(), api.Command{Verb: api.VerbStop}); err == nil {
		t.Fatal("two servers without routes are one bus")
	}
	edge.Move()
	reach(t, scheduler, edge.Node())
	alone := dial(t, Config{URLs: []string{a.URL()}, Seed: seedOf(2)})
	alone.Move()
	if !alone.Connected() {
		t.Error("a node left the only server that there is")
	}
}
