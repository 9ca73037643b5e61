package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func at(s int) time.Time { return time.Unix(int64(s), 0) }

func say(id api.NodeID, era uint64, boot string, seq uint64) entry {
	return entry{id: id, era: era, headroom: headroom(boot, seq)}
}

func member(id api.NodeID) Member { return Member{Meta: Meta{ID: id}} }

func TestMergeTakesOnlyTheNewer(t *testing.T) {
	v := newView("me", 100)
	v.joined("n.1", member("n"))
	for i, c := range []struct {
		e    entry
		take bool
	}{
		{say("n", 5, "a", 3), true},
		{say("n", 5, "a", 3), false},
		{say("n", 5, "a", 2), false},
		{say("n", 5, "a", 4), true},
		{say("n", 5, "b", 9), false}, // same start, another boot: nonsense
		{say("n", 4, "z", 99), false},
		{say("n", 6, "b", 1), true}, // started again
		{say("n", 5, "a", 50), false},
	} {
		before, _ := v.latest("n")
		e, ok := v.merge(c.e, at(i))
		after, _ := v.latest("n")
		if ok != c.take || ok && e.headroom.Seq != c.e.headroom.Seq {
			t.Errorf("step %d: %+v, %v", i, e, ok)
		}
		if want := map[bool]time.Time{true: at(i), false: before.at}[c.take]; !after.at.Equal(want) {
			t.Errorf("step %d: heard at %v, want %v", i, after.at, want)
		}
	}
}

func TestMemberRefutesItsPast(t *testing.T) {
	v := newView("me", 100)
	if _, ok := v.merge(say("me", 200, "old", 9), at(0)); ok { // its clock was ahead before
		t.Error("spreads before it has published")
	}
	if e := v.publish(headroom("new", 1), at(1)); e.era != 201 {
		t.Errorf("published with era %d: the old start still wins", e.era)
	}
	for i, c := range []struct {
		e   entry
		era uint64 // of the answer, 0 = none
	}{
		{say("me", 150, "old", 9), 0},
		{say("me", 201, "new", 1), 0},      // its own echo
		{say("me", 201, "new", 7), 202},    // somebody makes things up
		{say("me", 202, "old", 1), 203},    // clash of eras
		{say("me", 500, "new", 1), 501},    // ahead
		{say("me", 501, "new", 1), 0},      // echo of the answer
		{say("other", 1000, "x", 1), 1000}, // not about itself: spread as it is
		{say("me", 501, "older still", 1), 502},
	} {
		e, ok := v.merge(c.e, at(2))
		if ok != (c.era != 0) || e.era != c.era || ok && e.id == "me" && (e.headroom.Boot != "new" || !e.newer(c.e)) {
			t.Errorf("step %d: %+v, %v", i, e, ok)
		}
	}
	if h, _ := v.latest("me"); h.headroom.Boot != "new" || !h.at.Equal(at(1)) {
		t.Errorf("itself: %+v", h)
	}
}

func TestStateTellsAgesAndForgets(t *testing.T) {
	v := newView("me", 1)
	v.publish(headroom("b", 1), at(0))
	v.joined("fresh.1", member("fresh"))
	v.joined("stale.1", member("stale"))
	v.merge(say("fresh", 1, "b", 1), at(95))
	v.merge(say("not alive", 1, "b", 1), at(95))
	v.merge(say("stale", 1, "b", 1), at(30))
	list := v.state(at(100))
	if len(list) != 1 || list[0].id != "fresh" || list[0].age != 5*time.Second {
		t.Errorf("state %+v", list)
	}
	if _, kept := v.entries["stale"]; kept {
		t.Error("a stale entry is kept for ever")
	}
	if _, known := v.latest("me"); !known {
		t.Error("forgot itself")
	}
}

func TestLeaving(t *testing.T) {
	v := newView("me", 1)
	v.joined("n.1", member("n"))
	v.merge(say("n", 1, "a", 1), at(0))
	v.joined("n.2", member("n")) // started again before the first was found dead
	v.merge(say("n", 2, "b", 1), at(0))
	v.left("n.1")
	if h, known := v.latest("n"); !known || h.headroom.Boot != "b" {
		t.Error("the end of the first start took the second's headroom")
	}
	v.left("n.2")
	if _, known := v.latest("n"); known {
		t.Error("a node that left has headroom")
	}
	v.merge(say("n", 2, "b", 1), at(0)) // who has not heard of it yet tells
	if _, known := v.latest("n"); known {
		t.Error("a node that left has headroom again")
	}
	v.publish(headroom("me", 1), at(0))
	v.left("unknown")
	if _, known := v.latest("me"); !known {
		t.Error("forgot itself")
	}
}

func TestViewIsBounded(t *testing.T) {
	v := newView("me", 1)
	for i := range maxEntries + 100 {
		v.merge(say(api.NodeID(fmt.Sprint("n", i)), 1, "b", 1), at(0))
	}
	if len(v.entries) != maxEntries {
		t.Errorf("%d entries", len(v.entries))
	}
	if _, ok := v.merge(say("n5", 1, "b", 2), at(0)); !ok {
		t.Error("a known node's news is refused")
	}
}

func TestMessages(t *testing.T) {
	e := say("node", 1<<40, "boot", 77)
	b := encodeBroadcast(e)
	if got, err := decodeBroadcast(b); err != nil || got.id != e.id || got.era != e.era || got.headroom.Seq != 77 || len(b) > 80 {
		t.Errorf("%d bytes: %+v, %v", len(b), got, err)
	}
	state := encodeState([]aged{{e, 1500 * time.Millisecond}, {say("b", 0, "", 0), -time.Second}, {say("c", 1, "x", 1), time.Hour}})
	got, err := decodeState(state)
	if err != nil || len(got) != 3 || got[0].age != 1500*time.Millisecond || got[1].age != 0 || got[2].age != staleAfter || got[2].id != "c" {
		t.Errorf("%+v, %v", got, err)
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "version": {9, 0}, "cut": b[:len(b)-1], "more": append(bytes.Clone(b), 0),
		"id": append([]byte{messageVersion, 1, ' '}, b[6:]...),
	} {
		if _, err := decodeBroadcast(bad); !errors.Is(err, ErrMessage) && !errors.Is(err, api.ErrHeadroom) {
			t.Errorf("broadcast %s: %v", name, err)
		}
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "version": {9, 0}, "no count": {messageVersion}, "cut": state[:len(state)-1], "more": append(bytes.Clone(state), 0),
		"too many": {messageVersion, 0xff, 0xff, 0xff, 0x7f},
	} {
		if got, err := decodeState(bad); err == nil || got != nil {
			t.Errorf("state %s: %v, %v", name, got, err)
		}
	}
}

func FuzzDecodeState(f *testing.F) {
	f.Add(encodeState([]aged{{say("node", 3, "boot", 1), time.Second}, {say("b", 1, "c", 2), 0}}))
	f.Add(encodeBroadcast(say("node", 3, "boot", 1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		v := newView("me", 1)
		if e, err := decodeBroadcast(b); err == nil {
			v.merge(e, at(0))
		}
		list, err := decodeState(b)
		if err != nil {
			return
		}
		for _, a := range list {
			if !api.ValidID(string(a.id)) || a.age < 0 || a.age > staleAfter {
				t.Fatalf("took %+v", a)
			}
			v.merge(a.entry, at(1))
		}
		again, err := decodeState(encodeState(list))
		if err != nil || len(again) != len(list) {
			t.Fatalf("not read back: %v", err)
		}
	})
}
