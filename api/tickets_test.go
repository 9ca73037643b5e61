package api

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func manyTickets(n int, now time.Time) []Ticket {
	out := make([]Ticket, n)
	for i := range out {
		out[i] = Ticket{Session: SessionID(fmt.Sprint("s", i)), Generation: 1, Role: RoleControl, Viewer: uint32(i), Expires: now.Unix()}
	}
	return out
}

func TestTicketsSignedTogether(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	for n := 1; n <= MaxTickets; n++ {
		want := manyTickets(n, now)
		texts := SignTickets(private, want)
		sigs := map[string]bool{}
		for i, text := range texts {
			if got, err := ParseTicket(text, public, now); err != nil || !reflect.DeepEqual(got, want[i]) {
				t.Errorf("ticket %d of %d: %+v, %v", i, n, got, err)
			}
			if len(text) > 450 {
				t.Errorf("ticket %d of %d is %d bytes long", i, n, len(text))
			}
			sigs[text[strings.LastIndexByte(text, '.'):]] = true
			if _, err := ParseTicket(text, public, now.Add(TicketTolerance+time.Second)); !errors.Is(err, ErrTicket) {
				t.Errorf("ticket %d of %d outlives its expiry: %v", i, n, err)
			}
		}
		if len(texts) != n || len(sigs) != 1 {
			t.Errorf("%d tickets have %d texts and %d signatures", n, len(texts), len(sigs))
		}
	}
}

// Nothing of a ticket of many can be changed, exchanged or left out.
func TestTicketsSignedTogetherAreBound(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	other, _, _ := ed25519.GenerateKey(nil)
	now := time.Unix(1_800_000_000, 0)
	texts := SignTickets(private, manyTickets(5, now))
	a, b := strings.Split(texts[0], "."), strings.Split(texts[4], ".")
	alone := Ticket{Session: "s0", Generation: 1, Viewer: 9, Expires: now.Unix()}.Sign(private)
	inner, _ := base64.RawURLEncoding.DecodeString(a[1])
	for name, text := range map[string]string{
		"another's way":       a[0] + "." + b[1] + "." + a[2],
		"no way":              a[0] + "." + a[2],
		"an empty way":        a[0] + ".." + a[2],
		"another's payload":   b[0] + "." + a[1] + "." + a[2],
		"a payload of ours":   base64.RawURLEncoding.EncodeToString([]byte(`{"s":"s0","g":1,"r":"control","v":9,"e":1800000000}`)) + "." + a[1] + "." + a[2],
		"a hash for payload":  base64.RawURLEncoding.EncodeToString(inner[:64]) + "." + base64.RawURLEncoding.EncodeToString(inner[64:]) + "." + a[2],
		"one's own signature": alone[:strings.IndexByte(alone, '.')] + ".." + alone[strings.IndexByte(alone, '.')+1:],
		"half a hash":         a[0] + "." + a[1][:10] + "." + a[2],
		"a way too long":      a[0] + "." + strings.Repeat("A", 43*5) + "." + a[2],
		"four parts":          texts[0] + ".AA",
		"no signature":        a[0] + "." + a[1] + ".",
	} {
		if got, err := ParseTicket(text, public, now); !errors.Is(err, ErrTicket) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := ParseTicket(texts[0], other, now); !errors.Is(err, ErrTicket) {
		t.Errorf("another cluster's key: %v", err)
	}
	for i := range inner {
		changed := slices.Clone(inner)
		changed[i] ^= 1
		if _, err := ParseTicket(a[0]+"."+base64.RawURLEncoding.EncodeToString(changed)+"."+a[2], public, now); !errors.Is(err, ErrTicket) {
			t.Fatalf("byte %d of the way changed: %v", i, err)
		}
	}
}

func BenchmarkSignTickets(b *testing.B) {
	_, private, _ := ed25519.GenerateKey(nil)
	list := manyTickets(MaxTickets, time.Unix(1_800_000_000, 0))
	for _, n := range []int{1, MaxTickets} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				SignTickets(private, list[:n])
			}
		})
	}
}
