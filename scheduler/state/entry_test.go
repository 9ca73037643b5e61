package state

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// samples holds one command of every kind with every field set.
func samples(t testing.TB) []Command {
	c := creation("c25k8fh3pn6a8q46taug", "0123456789abcdef")
	c.Token = strings.Repeat("ab", 32)
	c.Key = "3f1c9a52-8e41-4c7b-9d11-0a5e7b2c6d90"
	c.Ephemeral, c.IdleMinutes, c.ExtraData = true, 15, []byte(`{"k":1}`)
	c.Parts = api.Parts{CPUMillis: 2000, MemoryMiB: 1024, UplinkKbps: 5000, VRAMMiB: 512, GPU: 2}
	c.Preset, c.Placement.Step, c.Placement.ExtraMS = api.PresetFast, api.StepPreset, 2.5
	return []Command{
		c,
		&End{ID: "s1", Reason: api.ReasonIdle, Force: true},
		&Join{ID: "s1", Screen: hd},
		&Report{ID: "s1", Generation: 3, Node: "n1", Boot: "b1", Seq: 77, Observed: api.ObservedFailed, Reason: api.ReasonAppCrashed,
			Message: "signal 11", Connected: true, Pool: api.PoolNVENC, Codec: api.AV1},
		&Missing{ID: "s1", Generation: 3, Node: "n1"},
		&PutNode{Doc: []byte(`{"id":"n1"}`), RelaySecret: []byte{1, 2, 3}, Token: "t"},
		&DrainNode{ID: "n1", Drain: true},
		&RemoveNode{ID: "n1"},
		&LoseNode{ID: "n1"},
		&BackNode{ID: "n1", Running: []api.Running{{Session: "s1", Generation: 1, Observed: api.ObservedRunning, Connected: true}}},
		&PutApp{Doc: []byte(`{"name":"xterm"}`)},
		&DeleteApp{Name: "xterm"},
		&PutToken{Account: "alice", ID: "t", Rights: []api.Right{api.RightCreate, api.RightJoin}, App: "xterm", Expires: epoch, Uses: 5},
		&RevokeToken{Account: "alice", ID: "t"},
		&DeleteAccount{Name: "alice"},
		&Secrets{TicketSeed: []byte("seed"), RingKey: []byte("ring")},
		&Tick{},
		&Demand{Cells: []api.DemandCell{{Minute: 29700000, Region: "eu", App: "xterm", Codec: api.VP8, Size: "640x360@30", Reason: api.RefusedLost, Count: 9}}},
		&PutReplica{Doc: []byte(`{"id":"r-1"}`)},
		&RemoveReplica{ID: "r-1"},
		&Raise{Version: 2},
		&Queue{Create: *c, Until: epoch.Add(time.Minute), Limit: 1000, AccountLimit: 100, Ask: Ask{Region: "eu", Network: "192.0.2.0/24", ASN: 64500,
			Client: api.Location{Latitude: 52.5, Longitude: 13.25, RadiusKM: 20, Known: true, Source: "mmdb", City: "Berlin"},
			Probes: []api.Probe{{Node: "n1", RoundTripMS: 4.5}, {Node: "n2", RoundTripMS: 250, Silent: true}}}},
		&Place{ID: "s1", From: 1, Generation: 2, Node: "n2", Pool: api.PoolNVENC, Codec: api.H264, Region: "eu", Codecs: []api.Codec{api.H264},
			Reserved: 216000, Screen: hd, Placement: c.Placement, Preset: api.PresetFast, Parts: c.Parts},
		&PutPolicy{Account: "alice", Doc: []byte(`{"trunk":true}`)},
		&Routes{Routes: []Route{{Network: "192.0.2.0/24", Node: "n1", Tenths: 123, Spread: 15, Weight: 42, Samples: 7, At: 29700000}}},
		&StageApp{Doc: []byte(`{"name":"xterm"}`)},
		&PublishApp{Name: "xterm", Version: 2, Published: true},
		&DropVersion{Name: "xterm", Version: 1},
		&Launch{Create: *c, Name: "lab", Tags: []string{"a", "b"}, Streaming: true},
		&PutShare{ID: "s1", Number: 2, Seat: api.Seat{Role: api.RoleControl, Rights: []api.ViewerRight{"gamepad"}}, Description: "Ann", Expires: epoch.Add(time.Hour)},
		&DropShare{ID: "s1", Number: 2},
		&Prepare{Create: *c},
		&Claim{Create: *c, Warm: "w1"},
		&PutPool{Doc: []byte(`{"app":"xterm","region":"eu"}`)},
		&DropPool{App: "xterm", Region: "eu"},
		&EditInstance{ID: "s1", HasTags: true, Tags: []string{"a"}, HasJoinable: true, Joinable: true, HasProtect: true, Protected: true, HasIdle: true, IdleMinutes: 3},
	}
}

func TestEntriesComeBack(t *testing.T) {
	all := samples(t)
	for _, c := range all {
		v := reflect.ValueOf(c).Elem()
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%T.%s is not set: its coding is not tested", c, v.Type().Field(i).Name)
			}
		}
	}
	stamp, got, err := Decode(EncodeAs(EntryVersion, epoch, all...))
	if err != nil {
		t.Fatal(err)
	}
	if !stamp.Equal(epoch) || !reflect.DeepEqual(got, all) {
		t.Errorf("entry of %s came back as %s\n%+v\nwant\n%+v", epoch, stamp, got, all)
	}
}

// TestEntries holds the bytes of each version: logs and other replicas have them.
func TestEntries(t *testing.T) {
	for version := 1; version <= EntryVersion; version++ {
		var b strings.Builder
		for _, c := range samples(t) {
			if Since(c) <= version {
				fmt.Fprintf(&b, "%d %s %s\n", c.kind(), strings.TrimPrefix(fmt.Sprintf("%T", c), "*state."), hex.EncodeToString(EncodeAs(version, epoch, c)))
			}
		}
		file := fmt.Sprintf("testdata/entries_v%d.txt", version)
		golden(t, file, b.String())
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			kept, err := hex.DecodeString(strings.Fields(line)[2])
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := Decode(kept); err != nil {
				t.Errorf("%s: %v", line, err)
			}
		}
	}
}

// TestLaterKindsWait holds that an entry of an earlier version has no command
// that its readers do not know.
func TestLaterKindsWait(t *testing.T) {
	for _, c := range samples(t) {
		_, _, err := Decode(EncodeAs(1, epoch, c))
		if fits := Since(c) == 1; (err == nil) != fits {
			t.Errorf("%T in an entry of version 1: %v", c, err)
		}
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; if that is meant, run go test with -update and raise the version\ngot:\n%s", file, got)
	}
}

func hexLines(b []byte) string {
	var lines strings.Builder
	for line := range slices.Chunk(b, 32) {
		lines.WriteString(hex.EncodeToString(line) + "\n")
	}
	return lines.String()
}

func readHexLines(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// keptSnapshot holds the bytes of a state's snapshot, and that they are read; it
// gives what they say.
func keptSnapshot(t *testing.T, file string, s *State) *State {
	t.Helper()
	golden(t, file, hexLines(dump(t, s)))
	kept := readHexLines(t, file)
	back, err := Read(bytes.NewReader(kept))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(dump(t, back), kept) {
		t.Error("the kept snapshot does not come back the same")
	}
	checkLedger(t, back)
	checkQueue(t, back)
	return back
}

// TestSnapshotV1 holds the bytes of a snapshot, and that they are still read.
func TestSnapshotV1(t *testing.T) {
	r := newRig(t)
	r.do(&Secrets{TicketSeed: []byte("seed"), RingKey: []byte("ring")},
		&PutToken{Account: "alice", ID: "t", Rights: []api.Right{api.RightCreate}, Expires: epoch.Add(time.Hour), Uses: 5})
	c := creation("s1", "n1")
	c.Token, c.Key = "t", "k"
	r.do(c, creation("s2", "n2"), creation("s3", "n2"), &Demand{Cells: []api.DemandCell{{Minute: 29700000, App: "xterm", Count: 2}}})
	r.report("s2", api.ObservedFailed, 1)
	r.do(&LoseNode{ID: "n2"}, &End{ID: "s3", Reason: api.ReasonDeleted})
	s := keptSnapshot(t, "testdata/snapshot_v1.txt", r.s)
	if tok, ok := s.Token("t"); !ok || tok.Uses != 4 {
		t.Errorf("the token came back as %+v", tok)
	}
	if again, _, err := s.Apply(Encode(r.now, c)); err != nil || again.LiveCount() != 1 {
		t.Errorf("the idempotency key did not come back: %d sessions, %v", again.LiveCount(), err)
	}
}

func TestCreateAndFinishedAreSmall(t *testing.T) {
	c := creation("c25k8fh3pn6a8q46taug", "0123456789abcdef")
	c.Account, c.App, c.Region = "integrator-17", "com.example.game", "eu-central-1"
	c.Token, c.Key = strings.Repeat("ab", 32), "3f1c9a52-8e41-4c7b-9d11-0a5e7b2c6d90"
	empty := len(Encode(epoch))
	if n := len(Encode(epoch, c)) - empty; n > 300 {
		t.Errorf("a create takes %d bytes, over 300", n)
	}
	r := newRig(t)
	r.do(app(t, c.App, "game"), &PutToken{Account: "integrator-17", ID: c.Token, Expires: epoch.Add(time.Hour), Uses: 5})
	c.Node = "n1"
	r.do(c)
	r.report(string(c.ID), api.ObservedFailed, 1, func(m *Report) {
		m.Reason, m.Message = api.ReasonAppCrashed, strings.Repeat("it went wrong ", 10)
	})
	packed, ok := r.s.finished.records.Get(string(c.ID))
	if !ok || len(packed) > 256 {
		t.Errorf("a finished session takes %d bytes, over 256", len(packed))
	}
	c.ID, c.Key = "c25k8fh3pn6a8q46taux", ""
	r.do(c)
	r.report(string(c.ID), api.ObservedStopped, 1)
	if packed, ok = r.s.finished.records.Get(string(c.ID)); !ok || len(packed) > 200 {
		t.Errorf("a finished session takes %d bytes, over 200", len(packed))
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := Encode(epoch, &End{ID: "s1"})
	at := len(Encode(epoch)) // where the first command begins
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	for name, b := range map[string][]byte{
		"nothing":         {},
		"a later version": change(func(b []byte) []byte { b[0] = EntryVersion + 1; return b }),
		"an unknown kind": change(func(b []byte) []byte { b[at] = 120; return b }),
		"a cut":           good[:len(good)-1],
		"bytes too many":  append(bytes.Clone(good), 0),
		"a field more":    change(func(b []byte) []byte { b[at+1]++; return append(b, 0) }),
		"a field less":    change(func(b []byte) []byte { b[at+1]--; return b[:len(b)-1] }),
	} {
		if _, _, err := Decode(b); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, _, err := Decode([]byte{EntryVersion + 1})
	if err == nil || !strings.Contains(err.Error(), "install the version") {
		t.Errorf("an entry of a later version says %v", err)
	}
	s := New()
	if next, _, err := s.Apply([]byte{EntryVersion + 1}); err == nil || next != s {
		t.Error("an entry of a later version changed the state")
	}
}

func TestFloatsRefuseNaN(t *testing.T) {
	nan := math.NaN()
	w := coder{}
	w.float(&nan)
	r := coder{reading: true, b: w.b}
	var f float64
	if r.float(&f); r.err == nil {
		t.Error("NaN was read")
	}
}

func FuzzDecode(f *testing.F) {
	for version := 1; version <= EntryVersion; version++ {
		for _, c := range samples(f) {
			f.Add(EncodeAs(version, epoch, c))
		}
	}
	f.Add(EncodeAs(EntryVersion, epoch, samples(f)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		stamp, cmds, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrEntry) {
				t.Fatalf("the error is no ErrEntry: %v", err)
			}
			return
		}
		if again := EncodeAs(int(b[0]), stamp, cmds...); !bytes.Equal(again, b) {
			t.Fatalf("an entry has two encodings:\n%x\n%x", b, again)
		}
		s, results, err := New().Apply(b)
		if err != nil || len(results) != len(cmds) {
			t.Fatalf("%d results of %d commands: %v", len(results), len(cmds), err)
		}
		back, err := Read(bytes.NewReader(dump(t, s)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(dump(t, back), dump(t, s)) {
			t.Fatal("the snapshot came back different")
		}
	})
}
