package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

const deadline = 20 * time.Second

func key() []byte { return []byte("0123456789abcdef0123456789abcdef") }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in %s: %s", deadline, what)
		}
	}
}

// start runs a member that joins the others; stop leaves the ring.
func start(t *testing.T, id api.NodeID, key []byte, seeds ...*Ring) (r *Ring, stop func()) {
	t.Helper()
	r, err := New(Config{Listen: "127.0.0.1:0", Key: key, Log: quiet(), Meta: Meta{ID: id, Region: "eu"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context())) // members leave one by one
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	var addresses []string
	for _, s := range seeds {
		addresses = append(addresses, s.Addr())
	}
	wg.Go(func() { r.Join(ctx, addresses) })
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	ready, cancelReady := context.WithTimeout(t.Context(), deadline)
	defer cancelReady()
	if err := r.Ready(ready); err != nil {
		t.Fatal(err)
	}
	return r, stop
}

func headroom(boot string, seq uint64) api.Headroom {
	return api.Headroom{Boot: boot, Seq: seq, CPU: int(seq % 100), Binding: "cpu", Pools: []api.PoolHeadroom{{Pool: api.PoolCPU, Free: 3600 * seq, Sessions: 1}}}
}

func knows(r *Ring, id api.NodeID, boot string, seq uint64) bool {
	h, at, ok := r.Latest(id)
	return ok && h.Boot == boot && h.Seq == seq && h.Pools[0].Free == 3600*seq && time.Since(at) < deadline
}

func ids(r *Ring) []string {
	var out []string
	for _, m := range r.Members() {
		out = append(out, string(m.Meta.ID))
	}
	slices.Sort(out)
	return out
}

func TestRingConverges(t *testing.T) {
	first, _ := start(t, "node0", key())
	rings := []*Ring{first}
	var leave []func()
	for i := 1; i < 5; i++ {
		r, stop := start(t, api.NodeID(fmt.Sprint("node", i)), key(), first)
		rings, leave = append(rings, r), append(leave, stop)
	}
	eventually(t, "all see all", func() bool {
		return !slices.ContainsFunc(rings, func(r *Ring) bool { return len(r.Members()) != 5 })
	})
	all := func(n int, seq uint64) func() bool {
		return func() bool {
			for _, r := range rings[:n] {
				for i := range n {
					if !knows(r, api.NodeID(fmt.Sprint("node", i)), "boot", seq) {
						return false
					}
				}
			}
			return true
		}
	}
	for _, seq := range []uint64{1, 2} {
		for _, r := range rings {
			r.Publish(headroom("boot", seq))
		}
		eventually(t, "all know all headroom", all(5, seq))
	}
	if m := rings[3].Members()[0].Meta; m.Region != "eu" {
		t.Errorf("meta %+v", m)
	}

	late, _ := start(t, "late", key(), rings[2])
	eventually(t, "a late joiner knows what was said before", func() bool {
		for i := range rings {
			if !knows(late, api.NodeID(fmt.Sprint("node", i)), "boot", 2) {
				return false
			}
		}
		return true
	})

	leave[3]() // node4
	eventually(t, "who leaves is gone", func() bool {
		_, _, known := first.Latest("node4")
		return !known && slices.Equal(ids(first), []string{"late", "node0", "node1", "node2", "node3"})
	})
	again, _ := start(t, "node4", key(), first)
	again.Publish(headroom("second boot", 1))
	eventually(t, "a new start wins though its sequence is lower", func() bool { return knows(first, "node4", "second boot", 1) })
}

func TestMetaChange(t *testing.T) {
	a, _ := start(t, "a", key())
	b, _ := start(t, "b", key(), a)
	eventually(t, "joined", func() bool { return len(a.Members()) == 2 && len(b.Members()) == 2 })
	want := Meta{
		ID: "b", Region: "us", Location: api.Location{Latitude: 1.5, Longitude: -2, RadiusKM: 3, Known: true},
		Encoders: []Encoder{{Pool: api.PoolNVENC, Codecs: []api.Codec{api.H264, api.AV1}}},
	}
	if err := b.SetMeta(want); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change is seen", func() bool {
		return slices.ContainsFunc(a.Members(), func(m Member) bool {
			return m.Meta.ID == "b" && m.Meta.Region == "us" && m.Meta.Location == want.Location &&
				len(m.Meta.Encoders) == 1 && slices.Equal(m.Meta.Encoders[0].Codecs, want.Encoders[0].Codecs)
		})
	})
	if err := b.SetMeta(Meta{ID: "a"}); err == nil {
		t.Error("a member took another's id")
	}
	if err := b.SetMeta(Meta{ID: "b", Region: strings.Repeat("r", MaxMeta)}); !errors.Is(err, ErrMetaTooLarge) {
		t.Errorf("too large a meta: %v", err)
	}
}

func TestStrangersStayOut(t *testing.T) {
	a, _ := start(t, "a", key())
	other := key()
	other[0]++
	spy, _ := start(t, "spy", other, a)
	b, _ := start(t, "b", key(), a)
	a.Publish(headroom("boot", 1))
	eventually(t, "who has the key is in", func() bool { return knows(b, "a", "boot", 1) })
	if reached, err := spy.members.Join([]string{a.Addr()}); reached != 0 || err == nil {
		t.Errorf("joined with another key: %d, %v", reached, err)
	}
	if got := ids(a); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("members %v", got)
	}
	if _, _, known := spy.Latest("a"); known {
		t.Error("a stranger learnt headroom")
	}
}

func TestJoinWaitsForTheOthers(t *testing.T) {
	a, stop := start(t, "a", key())
	address := a.Addr()
	b, err := New(Config{Listen: "127.0.0.1:0", Key: key(), Log: quiet(), Meta: Meta{ID: "b"}})
	if err != nil {
		t.Fatal(err)
	}
	stop() // b joins while nobody is there
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	b.Publish(headroom("early", 1)) // before it runs
	if b.Addr() != "" || b.Members() != nil {
		t.Errorf("before it runs: %q, %v", b.Addr(), b.Members())
	}
	wg.Go(func() { _ = b.Run(ctx) }) // a failure shows below
	wg.Go(func() { b.Join(ctx, []string{address}) })
	if err := b.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	back, err := New(Config{Listen: address, Key: key(), Log: quiet(), Meta: Meta{ID: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { _ = back.Run(ctx) })
	eventually(t, "joined at last", func() bool { return knows(back, "b", "early", 1) })
	b.Join(ctx, nil) // nobody to join: returns
}

func TestBadConfiguration(t *testing.T) {
	ok := Config{Listen: "127.0.0.1:0", Key: key(), Log: quiet(), Meta: Meta{ID: "a"}}
	for field, change := range map[string]func(*Config){
		"log":              func(c *Config) { c.Log = nil },
		"gossip.key":       func(c *Config) { c.Key = c.Key[:5] },
		"gossip.listen":    func(c *Config) { c.Listen = "host" },
		"70000":            func(c *Config) { c.Listen = "127.0.0.1:70000" },
		"meta.id":          func(c *Config) { c.Meta.ID = "a b" },
		"too large":        func(c *Config) { c.Meta.Region = strings.Repeat("r", MaxMeta) },
		"gossip.advertise": func(c *Config) { c.Advertise = "example.org" },
		"not an IP":        func(c *Config) { c.Advertise = "example.org:1" },
	} {
		c := ok
		change(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	for advertise, want := range map[string]string{"": ":0", "192.0.2.1": "192.0.2.1:0", "192.0.2.1:99": "192.0.2.1:99", "2001:db8::1": "2001:db8::1:0"} {
		c := ok
		c.Advertise = advertise
		r, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s:%d", r.list.AdvertiseAddr, r.list.AdvertisePort); got != want {
			t.Errorf("advertise %q: %s, want %s", advertise, got, want)
		}
	}
	taken, _ := start(t, "a", key())
	c := ok
	c.Listen = taken.Addr()
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err == nil {
		t.Error("two members on one port")
	}
}

func TestMetaOfANodeFits(t *testing.T) {
	n := api.Node{ID: "0123456789abcdef", Region: strings.Repeat("r", 64), Location: api.Location{Latitude: -33.868812345, Longitude: 151.209312345, RadiusKM: 123.456, Known: true, City: "Sydney"}}
	for _, p := range []api.Pool{api.PoolNVENC, api.PoolVAAPI, api.PoolCPU} {
		n.Pools = append(n.Pools, api.Capacity{Pool: p, Codecs: api.SoftwareCodecs()})
	}
	b, err := MetaOf(n).encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseMeta(b)
	if err != nil || got.ID != n.ID || len(got.Encoders) != 3 || got.Location.Latitude != n.Location.Latitude {
		t.Errorf("%d bytes: %+v, %v", len(b), got, err)
	}
	for _, bad := range []string{"", "x", "{}", `{"v":0,"i":"a"}`, `{"v":1,"i":""}`, `{"v":1,"i":"a b"}`} {
		if _, err := parseMeta([]byte(bad)); !errors.Is(err, ErrMessage) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := parseMeta([]byte(`{"v":2,"i":"a","new":1}`)); err != nil {
		t.Errorf("a later version: %v", err)
	}
}

func TestLogLevels(t *testing.T) {
	var got []string
	l := newLogger(slog.New(recorder{func(r slog.Record) {
		r.Attrs(func(a slog.Attr) bool { got = append(got, r.Level.String()+" "+a.Value.String()); return true })
	}}))
	l.Printf("[ERR] memberlist: a %d", 1)
	l.Printf("[WARN] memberlist: b")
	l.Printf("[DEBUG] memberlist: c")
	l.Printf("d")
	if want := []string{"WARN a 1", "INFO b", "DEBUG c", "DEBUG d"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

type recorder struct{ take func(slog.Record) }

func (recorder) Enabled(context.Context, slog.Level) bool          { return true }
func (r recorder) Handle(_ context.Context, rec slog.Record) error { r.take(rec); return nil }
func (r recorder) WithAttrs([]slog.Attr) slog.Handler              { return r }
func (r recorder) WithGroup(string) slog.Handler                   { return r }
