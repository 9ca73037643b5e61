package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/perigee-cloud/perigee/api"
)

// An operator may bring a NATS of his own; who may speak there is his to say.
func TestExternalNATS(t *testing.T) {
	const nodes = "p1.node.>"
	ns, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		Users: []*server.User{
			{Username: "schedulers", Password: "secret1"},
			{Username: "nodes", Password: "secret2", Permissions: &server.Permissions{
				Publish:   &server.SubjectPermission{Allow: []string{nodes}},
				Subscribe: &server.SubjectPermission{Allow: []string{nodes}},
				Response:  &server.ResponsePermission{MaxMsgs: 1, Expires: time.Minute},
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not come up")
	}
	at := func(user string) string { return strings.Replace(ns.ClientURL(), "nats://", "nats://"+user+"@", 1) }
	w := newWorld(t, "--nats-url", at("schedulers:secret1"), "--nats-node-url", at("nodes:secret2"))
	s := w.create(t, "xterm")
	w.becomes(t, s.ID, api.StatusActive, 10*time.Second)
	v := w.viewer(t)
	defer v.Close()
	connect(t, v, w.options("latency", nil)) // signalling goes the same way
	moves(t, v)
	if n := ns.NumClients(); n < 2 {
		t.Errorf("the external server has %d clients, want the scheduler and the edge", n)
	}
	if err := w.end(s.ID); err != nil {
		t.Error(err)
	}
}
