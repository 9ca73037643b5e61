package scheduler

import (
	"crypto/ed25519"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestNodeLostAndBack(t *testing.T) { synctest.Test(t, testNodeLostAndBack) }

func testNodeLostAndBack(t *testing.T) {
	w := newWorld(t)
	w.app()
	e := w.edge("one", 4)
	a := w.mustCreate()
	gone := w.mustCreate()
	w.until(a.Session.ID, api.StatusActive)
	w.until(gone.Session.ID, api.StatusActive)
	e.mute(true)
	if v := w.until(a.Session.ID, api.StatusError); v.Reason != api.ReasonNodeLost || v.Reserved == 0 {
		t.Errorf("on a lost node it is %q with %d reserved", v.Reason, v.Reserved)
	}
	if _, err := w.create(); refusal(err) != api.RefusedLost {
		t.Errorf("a create with the only node lost answers %v", err)
	}
	if err := w.s.EndSession(w.ctx(), gone.Session.ID, api.EndRequest{Wait: true}); err != nil {
		t.Fatalf("ending a session of a lost node: %v", err)
	}
	e.mute(false)
	if v := w.until(a.Session.ID, api.StatusActive); v.Reason != "" {
		t.Errorf("back it says %q", v.Reason)
	}
	// What was ended meanwhile is answered as unwanted until the node stops it.
	answer := e.beat()
	if len(answer.Unwanted) != 1 || answer.Unwanted[0].Session != gone.Session.ID {
		t.Errorf("unwanted are %+v", answer.Unwanted)
	}
	e.mu.Lock()
	delete(e.running, gone.Session.ID)
	e.mu.Unlock()
	w.eventually("its capacity is free", func() bool {
		n, _ := w.s.root().Node(e.node.ID)
		_, sessions := n.Reserved(api.PoolCPU)
		return sessions == 1 && len(n.Held) == 0
	})
}

func TestSessionThatItsNodeForgot(t *testing.T) { synctest.Test(t, testSessionThatItsNodeForgot) }

func testSessionThatItsNodeForgot(t *testing.T) {
	w := newWorld(t)
	w.app()
	e := w.edge("one", 4)
	a := w.mustCreate()
	w.until(a.Session.ID, api.StatusActive)
	e.mu.Lock()
	clear(e.running) // the host was restarted
	e.mu.Unlock()
	if v := w.until(a.Session.ID, api.StatusError); v.Reason != api.ReasonNodeLost || v.EndedAt.IsZero() {
		t.Errorf("it ended as %+v", v)
	}
}

func TestDaemonRestartsUnderItsSessions(t *testing.T) {
	synctest.Test(t, testDaemonRestartsUnderItsSessions)
}

func testDaemonRestartsUnderItsSessions(t *testing.T) {
	w := newWorld(t)
	w.app()
	e := w.edge("one", 4)
	a := w.mustCreate()
	w.until(a.Session.ID, api.StatusActive)

	second := &fakeEdge{t: t, bus: w.bus, key: e.key, node: e.node}
	second.node.Boot = "boot-2"
	if _, err := w.join(second, ""); api.CodeOf(err) != api.CodeConflict {
		t.Fatalf("a second daemon beside a living one answers %v", err)
	}
	e.mute(true) // the first one is killed
	start := time.Now()
	if _, err := w.join(second, ""); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 350*time.Millisecond {
		t.Errorf("the successor of a killed daemon waited %s, as long as a lease", took)
	}
	e.mu.Lock()
	e.node.Boot, e.silent = "boot-2", false // the fake goes on as the second daemon
	e.seq = 0
	e.mu.Unlock()
	e.tell(a.Session.ID, 1, api.ObservedRunning, "", true)
	if v, _ := w.s.Session(w.ctx(), a.Session.ID); v.Status() != api.StatusActive || !v.Connected {
		t.Errorf("after the restart the session is %s, connected %v", v.Status(), v.Connected)
	}
	old := api.Report{Node: e.node.ID, Boot: "boot-1", Seq: 999, Session: a.Session.ID, Generation: 1, Observed: api.ObservedFailed}
	if ack := w.s.onReport(w.ctx(), old); ack.OK || !strings.Contains(ack.Error, "another start") {
		t.Errorf("a report of the daemon before answers %+v", ack)
	}
	if answer := w.s.onHeartbeat(w.ctx(), api.Heartbeat{Node: e.node.ID, Boot: "boot-1", Seq: 999}); answer.Refused == "" {
		t.Error("a heartbeat of the daemon before is taken")
	}
	if err := w.s.EndSession(w.ctx(), a.Session.ID, api.EndRequest{Wait: true}); err != nil {
		t.Errorf("the second daemon's session cannot be ended: %v", err)
	}
}

func TestJoinNodeRefuses(t *testing.T) { synctest.Test(t, testJoinNodeRefuses) }

func testJoinNodeRefuses(t *testing.T) {
	w := newWorld(t)
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	token := func(right api.Right) string {
		text, _, err := w.s.CreateToken(w.ctx(), api.TokenSpec{Account: "ops", Rights: []api.Right{right}, Uses: 1})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	join := func(change func(*api.NodeJoin)) error {
		j := api.NodeJoin{Node: api.Node{PublicKey: public, Boot: "b", Pools: cpuFor(1)}, Token: token(api.RightNode)}
		change(&j)
		if j.Signature == nil {
			j.Signature = ed25519.Sign(private, api.JoinPayload(j.Node))
		}
		_, err := w.s.JoinNode(w.ctx(), j, "192.0.2.7:1")
		return err
	}
	for name, x := range map[string]struct {
		change func(*api.NodeJoin)
		code   api.Code
		text   string
	}{
		"no key":           {func(j *api.NodeJoin) { j.Node.PublicKey = nil }, api.CodeInvalid, "public_key"},
		"another's id":     {func(j *api.NodeJoin) { j.Node.ID = "someoneelse" }, api.CodeInvalid, "node.id"},
		"no boot":          {func(j *api.NodeJoin) { j.Node.Boot = "" }, api.CodeInvalid, "boot"},
		"a forged name":    {func(j *api.NodeJoin) { j.Signature = make([]byte, ed25519.SignatureSize) }, api.CodeUnauthorized, "signed"},
		"no token":         {func(j *api.NodeJoin) { j.Token = "" }, api.CodeUnauthorized, "token"},
		"a wrong token":    {func(j *api.NodeJoin) { j.Token = "pgt_x" }, api.CodeUnauthorized, "token"},
		"a user's token":   {func(j *api.NodeJoin) { j.Token = token(api.RightSessions) }, api.CodeForbidden, "node"},
		"no pools":         {func(j *api.NodeJoin) { j.Node.Pools = nil }, api.CodeInvalid, "pools"},
		"a strange pool":   {func(j *api.NodeJoin) { j.Node.Pools[0].Pool = "abacus" }, api.CodeInvalid, "abacus"},
		"a pool twice":     {func(j *api.NodeJoin) { j.Node.Pools = append(j.Node.Pools, j.Node.Pools[0]) }, api.CodeInvalid, "twice"},
		"a strange codec":  {func(j *api.NodeJoin) { j.Node.Pools[0].Codecs = []api.Codec{"MJPEG"} }, api.CodeInvalid, "MJPEG"},
		"a port too high":  {func(j *api.NodeJoin) { j.Node.RelayPort = 70000 }, api.CodeInvalid, "relay_port"},
		"a short secret":   {func(j *api.NodeJoin) { j.RelaySecret = []byte("x") }, api.CodeInvalid, "relay_secret"},
		"off the globe":    {func(j *api.NodeJoin) { j.Node.Location = api.Location{Known: true, Latitude: 91} }, api.CodeInvalid, "location"},
		"a strange region": {func(j *api.NodeJoin) { j.Node.Region = "e u" }, api.CodeInvalid, "region"},
	} {
		err := join(x.change)
		if api.CodeOf(err) != x.code || !strings.Contains(err.Error(), x.text) {
			t.Errorf("%s answers %v, want %s with %q", name, err, x.code, x.text)
		}
	}
	if nodes, err := w.s.ListNodes(w.ctx()); err != nil || len(nodes) != 0 {
		t.Errorf("%d nodes joined: %v", len(nodes), err)
	}
	if err := join(func(*api.NodeJoin) {}); err != nil {
		t.Errorf("a good join answers %v", err)
	}
}

type table map[string]api.Location

func (t table) Locate(address string) api.Location { return t[address] }

func TestJoinNodeCompletes(t *testing.T) { synctest.Test(t, testJoinNodeCompletes) }

func testJoinNodeCompletes(t *testing.T) {
	berlin := api.Location{Known: true, Latitude: 52.5, Longitude: 13.4, Source: "table"}
	w := newWorld(t, func(c *Config) {
		c.Locator = table{"192.0.2.7": berlin}
		c.DefaultRegion = "home"
		c.NATSURLs = func() []string { return []string{"nats://127.0.0.1:1"} }
		c.Gossip = func(string) []string { return []string{"127.0.0.1:2"} }
		c.RingKey = []byte("0123456789abcdef")
	})
	e := w.edge("one", 4, func(n *api.Node) { n.Region, n.Addresses = "", nil })
	joined, err := w.join(e, "")
	if err != nil {
		t.Fatal(err)
	}
	n := joined.Node
	if n.Region != "home" || n.Location != berlin || len(n.Addresses) != 1 || n.Addresses[0] != "192.0.2.7" {
		t.Errorf("recorded as %+v", n)
	}
	if len(n.Relay) != 3 || n.Relay[0] != "stun:192.0.2.7:3478" || n.Relay[1] != "turn:192.0.2.7:3478?transport=udp" {
		t.Errorf("its relay is %q", n.Relay)
	}
	if joined.NATS[0] != "nats://127.0.0.1:1" || joined.Gossip[0] != "127.0.0.1:2" || string(joined.RingKey) != "0123456789abcdef" ||
		joined.HeartbeatMS != 40 || joined.LeaseMS != 400 || joined.PublicAddress != "192.0.2.7" {
		t.Errorf("it was told %+v", joined)
	}
	if !w.s.KnownNode(e.node.PublicKey) || w.s.KnownNode([]byte("other")) {
		t.Error("the bus does not know the node, or knows another")
	}
	w.app()
	a := w.mustCreate()
	if _, err := api.ParseTicket(a.Ticket, joined.TicketKey, time.Now()); err != nil {
		t.Errorf("the edge cannot check a ticket: %v", err)
	}
	if len(a.ICEServers) != 2 || a.ICEServers[0].URLs[0] != "stun:192.0.2.7:3478" || a.ICEServers[0].Username != "" {
		t.Fatalf("ICE servers are %+v", a.ICEServers)
	}
	relay := a.ICEServers[1]
	if len(relay.URLs) != 2 || !strings.HasSuffix(relay.Username, ":"+string(a.Session.ID)+".1") || relay.Password == "" {
		t.Errorf("the relay is %+v", relay)
	}
}

func TestDrainAndRemove(t *testing.T) { synctest.Test(t, testDrainAndRemove) }

func testDrainAndRemove(t *testing.T) {
	kicked := make(chan api.NodeID, 1)
	w := newWorld(t, func(c *Config) {
		c.Kick = func(id api.NodeID) error { kicked <- id; return nil }
	})
	w.app()
	e := w.edge("one", 4)
	a := w.mustCreate()
	w.until(a.Session.ID, api.StatusActive)
	if err := w.s.SetDrain(w.ctx(), e.node.ID, true); err != nil {
		t.Fatal(err)
	}
	if _, err := w.create(); refusal(err) != api.RefusedDrain {
		t.Errorf("a create on a draining node answers %v", err)
	}
	nodes, err := w.s.ListNodes(w.ctx())
	if err != nil || len(nodes) != 1 || !nodes[0].Alive || !nodes[0].Node.Drain || nodes[0].Sessions != 1 || nodes[0].Reserved[api.PoolCPU] == 0 {
		t.Errorf("nodes are %+v: %v", nodes, err)
	}
	if err := w.s.SetDrain(w.ctx(), e.node.ID, false); err != nil {
		t.Fatal(err)
	}
	w.mustCreate()
	if err := w.s.RemoveNode(w.ctx(), e.node.ID); err != nil {
		t.Fatal(err)
	}
	if id := <-kicked; id != e.node.ID {
		t.Errorf("%s was disconnected", id)
	}
	if v, _ := w.s.Session(w.ctx(), a.Session.ID); v.Status() != api.StatusError || v.Reason != api.ReasonNodeLost {
		t.Errorf("on a removed node a session is %s, %s", v.Status(), v.Reason)
	}
	if answer := e.beat(); answer.Refused == "" {
		t.Error("a removed node's heartbeat is taken")
	}
	if err := w.s.RemoveNode(w.ctx(), e.node.ID); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("removing it again answers %v", err)
	}
}

// What looks like a fault and is none does not greet a newcomer.
func TestQuietStart(t *testing.T) {
	for _, tt := range []struct {
		alone bool
		line  string
		want  bool
	}{
		{true, "[WARN]  heartbeat timeout reached, starting election: last-leader-addr= last-leader-id=", false},
		{false, "[WARN]  heartbeat timeout reached, starting election: last-leader-addr=", true},
		{true, "[ERROR] failed to make snapshot", true},
	} {
		var out strings.Builder
		w := lineWriter{slog.New(slog.NewTextHandler(&out, nil)), tt.alone}
		if _, err := w.Write([]byte(tt.line)); err != nil || (out.Len() > 0) != tt.want {
			t.Errorf("alone %v, %q: shown as %q, %v", tt.alone, tt.line, out.String(), err)
		}
	}
}

// A node that joins again, in the same start, has the headroom that it had.
func TestJoiningAgainKeepsHeadroom(t *testing.T) {
	l := leases{nodes: map[api.NodeID]*lease{}}
	now := time.Now()
	l.hear("n", "boot", 5, api.Headroom{Seq: 5}, now)
	l.hear("n", "boot", 0, api.Headroom{}, now.Add(time.Second))
	if n := l.nodes["n"]; n.seq != 5 || n.headroom.Seq != 5 || !n.heard.Equal(now.Add(time.Second)) {
		t.Errorf("after the same start joined again: %+v", n)
	}
	if l.hear("n", "boot", 5, api.Headroom{}, now) {
		t.Error("an old heartbeat counts again")
	}
	l.hear("n", "next", 0, api.Headroom{}, now)
	if n := l.nodes["n"]; n.seq != 0 || n.headroom.Seq != 0 {
		t.Errorf("after another start: %+v", n)
	}
}
