package api

import (
	"crypto/ed25519"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestTicket(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	want := Ticket{Session: "s1", Generation: 2, Role: RoleControl, Viewer: 3, Expires: now.Add(time.Minute).Unix(),
		Rights: []ViewerRight{"gamepad"}, Share: 2}
	text := want.Sign(private)
	if got, err := ParseTicket(text, public, now); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if _, err := ParseTicket(text, public, now.Add(time.Minute+TicketTolerance)); err != nil {
		t.Errorf("refused within the tolerance: %v", err)
	}
	other, _, _ := ed25519.GenerateKey(nil)
	for name, c := range map[string]struct {
		text string
		key  ed25519.PublicKey
		now  time.Time
	}{
		"expired":     {text, public, now.Add(time.Minute + TicketTolerance + time.Second)},
		"other key":   {text, other, now},
		"no key":      {text, nil, now},
		"tampered":    {strings.Replace(text, "e", "f", 1), public, now},
		"cut":         {text[:len(text)-4], public, now},
		"empty":       {"", public, now},
		"no dot":      {"abc", public, now},
		"not base64":  {"a b.c d", public, now},
		"empty parts": {".", public, now},
	} {
		if _, err := ParseTicket(c.text, c.key, c.now); !errors.Is(err, ErrTicket) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzParseTicket(f *testing.F) {
	public, private, _ := ed25519.GenerateKey(nil)
	good := Ticket{Session: "s", Generation: 1}.Sign(private)
	f.Add(good)
	f.Add("e30.AA")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := ParseTicket(text, public, time.Unix(-1, 0)); err == nil && text != good {
			t.Errorf("%q passes", text)
		}
	})
}
