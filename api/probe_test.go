package api

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"
)

// ice are the characters of a ufrag and a password (RFC 8839, ice-char).
const ice = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

func TestProbeTicket(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, node := range []NodeID{"n", "0123456789abcdef", NodeID(strings.Repeat("a:_-", 16))} {
		want := ProbeTicket{Node: node, Nonce: [ProbeNonce]byte{1, 0xff, 3, 250}, Expires: now.Add(ProbeLife).Unix()}
		text := want.Text()
		if got, err := ParseProbeTicket(text, now); err != nil || got != want {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
		if len(text) < 4 || len(text) > 256 || strings.Trim(text, ice) != "" {
			t.Errorf("%q is no ufrag", text)
		}
		if _, err := ParseProbeTicket(text, now.Add(ProbeLife+TicketTolerance)); err != nil {
			t.Errorf("refused within the tolerance: %v", err)
		}
		if _, err := ParseProbeTicket(text, now.Add(ProbeLife+TicketTolerance+time.Second)); !errors.Is(err, ErrProbe) {
			t.Errorf("accepted after its time: %v", err)
		}
	}
}

func TestProbeTicketRefused(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	good := ProbeTicket{Node: "node1", Expires: now.Unix()}.Text()
	raw, err := base64.RawStdEncoding.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	encoded := func(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }
	for name, text := range map[string]string{
		"empty":         "",
		"cut":           good[:24],
		"no node":       encoded(raw[:probeFixed]),
		"wrong node":    encoded(append(raw[:probeFixed:probeFixed], "no de"...)),
		"other version": encoded(append([]byte{2}, raw[1:]...)),
		"line break":    good[:8] + "\n" + good[8:],
		"padded":        good + "=",
		"too long":      encoded(append(raw[:probeFixed:probeFixed], strings.Repeat("n", 65)...)),
		"a TURN user":   "1800000000:s1.1",
		"expired":       ProbeTicket{Node: "node1", Expires: -1}.Text(),
	} {
		if _, err := ParseProbeTicket(text, now); !errors.Is(err, ErrProbe) {
			t.Errorf("%s: %q gives %v", name, text, err)
		}
	}
}

func TestProbePassword(t *testing.T) {
	p := ProbePassword([]byte("secret"), "ticket")
	if len(p) < 22 || len(p) > 256 || strings.Trim(p, ice) != "" {
		t.Errorf("%q is no ICE password", p)
	}
	if p == ProbePassword([]byte("secret"), "tickes") || p == ProbePassword([]byte("secres"), "ticket") {
		t.Error("the password does not depend on ticket and secret")
	}
	// Deployed relays and schedulers must agree.
	if want := "yVJkGxxDi+PZUROQu590qlfbEWVpsLLd"; p != want {
		t.Errorf("got %q, want %q", p, want)
	}
}

func FuzzParseProbeTicket(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	f.Add(ProbeTicket{Node: "node1", Expires: now.Unix()}.Text())
	f.Add("")
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseProbeTicket(text, now)
		if err != nil {
			if !errors.Is(err, ErrProbe) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if got.Text() != text { // one ticket has one text: limits per ticket rely on it
			t.Fatalf("%q is also %q", got.Text(), text)
		}
	})
}
