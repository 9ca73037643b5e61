package bus

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/perigee-cloud/perigee/api"
)

const deadline = 10 * time.Second

func TestCommandReportHeartbeat(t *testing.T) {
	w := newWorld(t)
	var follower atomic.Bool
	must(t, w.scheduler.OnReport(func(_ context.Context, r api.Report) api.Ack {
		if follower.Load() {
			return api.Ack{}
		}
		return api.Ack{OK: r.Observed == api.ObservedRunning, Error: string(r.Node), Stop: true}
	}))
	must(t, w.scheduler.OnHeartbeat(func(_ context.Context, h api.Heartbeat) api.HeartbeatAnswer {
		return api.HeartbeatAnswer{OK: true, Unwanted: h.Running}
	}))
	edge := w.node(1)
	must(t, edge.OnCommand(func(_ context.Context, c api.Command) api.Ack {
		return api.Ack{OK: true, Error: string(c.Session)}
	}))
	reach(t, w.scheduler, edge.Node())
	if a, err := w.scheduler.Command(t.Context(), edge.Node(), api.Command{Verb: api.VerbStop, Session: "s1"}); err != nil || !a.OK || a.Error != "s1" {
		t.Errorf("command: %+v, %v", a, err)
	}
	if a, err := edge.Report(t.Context(), api.Report{Observed: api.ObservedRunning}); err != nil || !a.OK || !a.Stop || a.Error != string(edge.Node()) {
		t.Errorf("report: %+v, %v", a, err)
	}
	if a, err := edge.Heartbeat(t.Context(), api.Heartbeat{Running: []api.Running{{Session: "s2", Generation: 4}}}); err != nil || len(a.Unwanted) != 1 || a.Unwanted[0].Generation != 4 {
		t.Errorf("heartbeat: %+v, %v", a, err)
	}
	follower.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := edge.Report(ctx, api.Report{}); api.CodeOf(err) != api.CodeTimeout {
		t.Errorf("a follower answered: %v", err)
	}
}

func TestCommandToNobody(t *testing.T) {
	w := newWorld(t)
	if _, err := w.scheduler.Command(t.Context(), "0000000000000000", api.Command{Verb: api.VerbStop}); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("node that is not there: %v", err)
	}
	for _, id := range []api.NodeID{"", "*", ">", "a.b", "a b"} {
		if _, err := w.scheduler.Command(t.Context(), id, api.Command{Verb: api.VerbStop}); err == nil {
			t.Errorf("node %q is let into a subject", id)
		}
	}
}

func TestOnlyKnownNodesAndTheSchedulerGetIn(t *testing.T) {
	w := newWorld(t)
	pair, nkey := nkeyOf(t, 9)
	id := api.NodeIDFromKey(ed25519.NewKeyFromSeed(seedOf(9)).Public().(ed25519.PublicKey))
	stranger, _ := nkeyOf(t, 10)
	for name, o := range map[string]nats.Option{
		"nothing":        nats.Name("x"),
		"wrong password": nats.UserInfo(schedulerUser, "guess"),
		"wrong user":     nats.UserInfo("root", w.server.password),
		"stolen key id":  nats.Nkey(nkey, stranger.Sign),
	} {
		if nc, err := nats.Connect(w.server.URL(), o); err == nil {
			nc.Close()
			t.Errorf("%s gets in", name)
		}
	}
	nc, err := nats.Connect(w.server.URL(), nats.Nkey(nkey, pair.Sign))
	must(t, err)
	nc.Close()
	w.refuse(id)
	if nc, err := nats.Connect(w.server.URL(), nats.Nkey(nkey, pair.Sign)); err == nil {
		nc.Close()
		t.Error("an unknown node gets in")
	}
}

func nkeyOf(t *testing.T, seed byte) (nkeys.KeyPair, string) {
	t.Helper()
	pair, err := nkeys.FromRawSeed(nkeys.PrefixByteUser, seedOf(seed))
	must(t, err)
	nkey, err := pair.PublicKey()
	must(t, err)
	return pair, nkey
}

// rawNode is a node's connection without this package's manners.
func rawNode(t *testing.T, w *world, seed byte) (*nats.Conn, api.NodeID, chan error) {
	t.Helper()
	pair, nkey := nkeyOf(t, seed)
	violations := make(chan error, 64)
	nc, err := nats.Connect(w.server.URL(), nats.Nkey(nkey, pair.Sign),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { violations <- err }))
	must(t, err)
	t.Cleanup(nc.Close)
	return nc, api.NodeIDFromKey(ed25519.NewKeyFromSeed(seedOf(seed)).Public().(ed25519.PublicKey)), violations
}

func TestNodeKeepsToItsOwnSubjects(t *testing.T) {
	w := newWorld(t)
	nc, me, violations := rawNode(t, w, 1)
	victim := w.node(2)
	refused := func(what string) {
		t.Helper()
		must(t, nc.Flush())
		select {
		case err := <-violations:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(deadline):
			t.Errorf("%s is allowed", what)
		}
	}
	for _, s := range []string{
		">", "p1.>", subject("*", kindCommand), subject(victim.Node(), kindCommand),
		subject(victim.Node(), kindDown) + ".>", subject(victim.Node(), kindInbox) + ".>",
		subject(me, kindUp) + ".>", "_INBOX.>", "$SYS.>",
	} {
		_, err := nc.SubscribeSync(s)
		must(t, err)
		refused("subscribe " + s)
	}
	for _, s := range []string{
		subject(victim.Node(), kindCommand), subject(victim.Node(), kindReport), subject(victim.Node(), kindHeartbeat),
		signalSubject(victim.Node(), kindUp, "s", "v"), "_INBOX.x.y", subject(me, kindCommand),
		signalSubject(me, kindDown, "s", "v"), subject(me, kindInbox) + ".x",
	} {
		must(t, nc.PublishRequest(s, subject(victim.Node(), kindCommand), []byte("{}")))
		refused("publish " + s)
	}
}

func TestSchedulerAnswersOnlyTheSendersInbox(t *testing.T) {
	w := newWorld(t)
	reports := make(chan api.Report, 4)
	must(t, w.scheduler.OnReport(func(_ context.Context, r api.Report) api.Ack {
		reports <- r
		return api.Ack{OK: true}
	}))
	commands := make(chan api.Command, 4)
	victim := w.node(2)
	must(t, victim.OnCommand(func(_ context.Context, c api.Command) api.Ack {
		commands <- c
		return api.Ack{OK: true}
	}))
	reach(t, w.scheduler, victim.Node())
	<-commands
	nc, me, _ := rawNode(t, w, 1)
	send := func(reply, body string) {
		must(t, nc.PublishRequest(subject(me, kindReport), reply, []byte(body)))
	}
	send(subject(victim.Node(), kindCommand), `{"node":"`+string(me)+`","session":"bad","verb":"stop"}`)
	send("_INBOX.x", `{"node":"`+string(me)+`","session":"bad"}`)
	send(subject(me, kindInbox)+".x", `{"node":"`+string(victim.Node())+`","session":"bad"}`)
	send(subject(me, kindInbox)+".x", `not JSON`)
	send(subject(me, kindInbox)+".x", `{"node":"`+string(me)+`","session":"good"}`)
	must(t, nc.Flush())
	select {
	case r := <-reports:
		if r.Session != "good" {
			t.Errorf("took %+v", r)
		}
	case <-time.After(deadline):
		t.Fatal("the good report did not come")
	}
	if len(commands) != 0 {
		t.Errorf("the scheduler was made to send %+v", <-commands)
	}
}

func TestKick(t *testing.T) {
	w := newWorld(t)
	edge, other := w.node(1), w.node(2)
	w.refuse(edge.Node())
	must(t, w.server.Kick(edge.Node()))
	eventually(t, "kicked", func() bool { return !edge.Connected() })
	if !other.Connected() {
		t.Error("another node was disconnected")
	}
	w.mu.Lock()
	clear(w.refused)
	w.mu.Unlock()
	eventually(t, "comes back when it may", edge.Connected)
}

func TestServerRestart(t *testing.T) {
	w := &world{t: t, refused: map[api.NodeID]bool{}}
	first, stop := startStoppable(t, ServerConfig{Listen: "127.0.0.1:0", Known: w.known})
	w.server = first
	edge := w.node(1)
	must(t, edge.OnCommand(func(context.Context, api.Command) api.Ack { return api.Ack{OK: true} }))
	address := first.Addr().String()
	stop()
	eventually(t, "edge sees the server go", func() bool { return !edge.Connected() })
	if _, err := edge.Report(t.Context(), api.Report{}); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("report without a server: %v", err)
	}
	second := startServer(t, ServerConfig{Listen: address, Known: w.known})
	eventually(t, "edge comes back", edge.Connected)
	reach(t, dial(t, second.InProcess()), edge.Node())
}

func TestReplicasShareOneBus(t *testing.T) {
	known := func([]byte) bool { return true }
	a := startServer(t, ServerConfig{Listen: "127.0.0.1:0", Known: known, Cluster: "127.0.0.1:0", ClusterSecret: "k"})
	b := startServer(t, ServerConfig{
		Listen: "127.0.0.1:0", Known: known, Cluster: "127.0.0.1:0", ClusterSecret: "k",
		Routes: []string{a.ClusterAddr().String()},
	})
	edge := dial(t, Config{URLs: []string{a.URL()}, Seed: seedOf(1)})
	must(t, edge.OnCommand(func(context.Context, api.Command) api.Ack { return api.Ack{OK: true} }))
	scheduler := dial(t, b.InProcess())
	must(t, scheduler.OnReport(func(context.Context, api.Report) api.Ack { return api.Ack{OK: true} }))
	reach(t, scheduler, edge.Node())
	eventually(t, "report reaches the other replica", func() bool {
		_, err := edge.Report(t.Context(), api.Report{})
		return err == nil
	})
	intruder := startServer(t, ServerConfig{
		Listen: "127.0.0.1:0", Known: known, Cluster: "127.0.0.1:0", ClusterSecret: "guess",
		Routes: []string{a.ClusterAddr().String()},
	})
	spy := dial(t, intruder.InProcess())
	for range 50 { // the true secret takes a few tries to get this far
		if _, err := spy.Command(t.Context(), edge.Node(), api.Command{Verb: api.VerbStop}); err == nil {
			t.Fatal("a server without the secret joined")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestBadConfiguration(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	known := func([]byte) bool { return true }
	for name, c := range map[string]ServerConfig{
		"no Known":              {Listen: "127.0.0.1:0", Log: log},
		"no port":               {Listen: "127.0.0.1", Log: log, Known: known},
		"bad port":              {Listen: "127.0.0.1:70000", Log: log, Known: known},
		"routes alone":          {Listen: "127.0.0.1:0", Log: log, Known: known, Routes: []string{"a:1"}},
		"cluster without":       {Listen: "127.0.0.1:0", Log: log, Known: known, Cluster: "127.0.0.1:0"},
		"cluster without ports": {Listen: "127.0.0.1:0", Log: log, Known: known, Cluster: "x", ClusterSecret: "k"},
	} {
		if _, err := NewServer(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, c := range map[string]Config{
		"no log":    {URLs: []string{"nats://127.0.0.1:1"}},
		"no URL":    {Log: log},
		"short key": {Log: log, URLs: []string{"nats://127.0.0.1:1"}, Seed: make([]byte, 5)},
	} {
		if b, err := Dial(t.Context(), c); err == nil {
			b.Close()
			t.Errorf("%s: accepted", name)
		}
	}
	taken := startServer(t, ServerConfig{Listen: "127.0.0.1:0", Known: known})
	second, err := NewServer(ServerConfig{Listen: taken.Addr().String(), Known: known, Log: log})
	must(t, err)
	if err := second.Run(t.Context()); err == nil {
		t.Error("two servers on one port")
	}
}

// The schedulers were all replaced: the connection follows to the new address,
// with its subscriptions.
func TestNewAddresses(t *testing.T) {
	known := func([]byte) bool { return true }
	old, stop := startStoppable(t, ServerConfig{Listen: "127.0.0.1:0", Known: known})
	node := dial(t, Config{URLs: []string{old.URL()}, Seed: seedOf(1)})
	if err := node.OnCommand(func(context.Context, api.Command) api.Ack { return api.Ack{OK: true} }); err != nil {
		t.Fatal(err)
	}
	stop()
	eventually(t, "the loss is seen", func() bool { return !node.Connected() })
	if err := node.SetURLs(nil); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("no address: %v", err)
	}
	next := startServer(t, ServerConfig{Listen: "127.0.0.1:0", Known: known})
	scheduler := dial(t, next.InProcess())
	if err := node.SetURLs([]string{next.URL()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a command at the new address", func() bool {
		a, err := scheduler.Command(t.Context(), node.Node(), api.Command{Verb: api.VerbDrain})
		return err == nil && a.OK
	})
	if node.Lost() != 1 {
		t.Errorf("the connection was made again %d times, want 1", node.Lost())
	}
	if err := node.SetURLs([]string{next.URL(), old.URL()}); err != nil || !node.Connected() {
		t.Errorf("a longer list while connected: %v, connected %v", err, node.Connected())
	}
}
