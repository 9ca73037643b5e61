package api

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

var linkBase = Signal{Session: "s", Generation: 3, Viewer: "1-abcdefgh", Role: RoleControl}

func TestLinkInOrder(t *testing.T) {
	now := time.Unix(0, 0)
	a, b := NewLink(linkBase), NewLink(linkBase)
	if err := a.Open(); err != nil {
		t.Fatal(err)
	}
	if err := a.Send([]byte("one")); err != nil {
		t.Fatal(err)
	}
	out := a.Due(now)
	if len(out) != 2 || out[0].Kind != SignalOpen || out[0].Role != RoleControl || out[0].Generation != 3 || out[1].Seq != 2 {
		t.Fatalf("sent %+v", out)
	}
	if again := a.Due(now); len(again) != 0 {
		t.Fatalf("sent again at once: %+v", again)
	}
	if got := b.Receive(out[0]); len(got) != 0 || !b.Opened() {
		t.Fatalf("open delivers %q, opened %v", got, b.Opened())
	}
	if got := b.Receive(out[1]); len(got) != 1 || string(got[0]) != "one" {
		t.Fatalf("got %q", got)
	}
	if got := b.Receive(out[1]); len(got) != 0 {
		t.Fatalf("a repeated frame was delivered: %q", got)
	}
	acks := b.Due(now)
	if len(acks) != 1 || acks[0].Kind != SignalAck || acks[0].Ack != 2 {
		t.Fatalf("acknowledged with %+v", acks)
	}
	a.Receive(acks[0])
	if _, due := a.Next(); due || !a.Drained() {
		t.Error("an acknowledged frame is still to be sent")
	}
}

func TestLinkResendsWithBackOff(t *testing.T) {
	now := time.Unix(100, 0)
	l := NewLink(linkBase)
	_ = l.Open()
	var gaps []time.Duration
	for range 16 {
		if out := l.Due(now); len(out) != 1 {
			t.Fatalf("%d signals due", len(out))
		}
		next, ok := l.Next()
		if !ok || !next.After(now) {
			t.Fatalf("next %v, %v", next, ok)
		}
		if early := l.Due(next.Add(-1)); len(early) != 0 {
			t.Fatal("sent again too early")
		}
		gaps = append(gaps, next.Sub(now))
		now = next
	}
	if gaps[0] != resendEvery || gaps[resendSteady-1] != resendEvery || gaps[resendSteady] != 2*resendEvery || gaps[15] != resendMost {
		t.Errorf("gaps %v", gaps)
	}
	if l.Stalled(time.Unix(100, 0).Add(LinkTimeout - 1)) {
		t.Error("stalled before its time")
	}
	if !l.Stalled(time.Unix(100, 0).Add(LinkTimeout)) {
		t.Error("not stalled after its time")
	}
}

func TestLinkBounds(t *testing.T) {
	l := NewLink(linkBase)
	if err := l.Send(make([]byte, MaxFrame+1)); CodeOf(err) != CodeTooLarge {
		t.Errorf("too large a frame: %v", err)
	}
	for i := range LinkFrames {
		if err := l.Send([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Send(nil); !errors.Is(err, ErrLinkFull) {
		t.Errorf("frame %d: %v", LinkFrames+1, err)
	}
	l.Close("full") // a close is let in even then
	if err := l.Send(nil); !errors.Is(err, ErrLinkDone) {
		t.Errorf("after close: %v", err)
	}
	l.Close("twice")
	if n := len(l.Due(time.Unix(0, 0))); n != LinkFrames+1 {
		t.Errorf("%d signals due", n)
	}

	big := NewLink(linkBase)
	for range LinkBytes / MaxFrame {
		if err := big.Send(make([]byte, MaxFrame)); err != nil {
			t.Fatal(err)
		}
	}
	if err := big.Send([]byte{1}); !errors.Is(err, ErrLinkFull) {
		t.Errorf("over %d bytes: %v", LinkBytes, err)
	}

	r := NewLink(linkBase)
	for i := uint64(2); i < 2*LinkFrames; i++ {
		s := linkBase
		s.Kind, s.Seq, s.Data = SignalFrame, i, make([]byte, 20<<10)
		r.Receive(s)
	}
	if len(r.early) > LinkFrames || r.earlyBytes > LinkBytes || len(r.early) != LinkBytes/(20<<10) {
		t.Errorf("holds %d early signals of %d bytes", len(r.early), r.earlyBytes)
	}
}

func TestLinkClose(t *testing.T) {
	now := time.Unix(0, 0)
	a, b := NewLink(linkBase), NewLink(linkBase)
	_ = a.Send([]byte("last words"))
	a.Close("bye")
	out := a.Due(now)
	if got := b.Receive(out[1]); len(got) != 0 {
		t.Fatal("the close overtook a frame")
	}
	if got := b.Receive(out[0]); len(got) != 1 {
		t.Fatalf("got %q", got)
	}
	if reason, closed := b.Closed(); !closed || reason != "bye" {
		t.Errorf("closed %v, %q", closed, reason)
	}
	if err := b.Send(nil); !errors.Is(err, ErrLinkDone) {
		t.Errorf("sending to who has gone: %v", err)
	}
	_ = b.Due(now) // this acknowledgement is lost
	b.Receive(out[1])
	acks := b.Due(now)
	if len(acks) != 1 {
		t.Fatal("a repeated close is not acknowledged")
	}
	a.Receive(acks[0])
	if !a.Drained() {
		t.Error("close still unacknowledged")
	}
}

func TestLinkRefused(t *testing.T) {
	now := time.Unix(0, 0)
	a := NewLink(linkBase)
	_ = a.Open()
	answer, ok := RefuseSignal(a.Due(now)[0], "session has ended")
	if !ok {
		t.Fatal("an open gets no answer")
	}
	a.Receive(answer)
	if reason, closed := a.Closed(); !closed || reason != "session has ended" {
		t.Errorf("closed %v, %q", closed, reason)
	}
	if _, ok := RefuseSignal(answer, ""); ok {
		t.Error("an abort is answered: two ends could go on for ever")
	}
	c := NewLink(linkBase)
	c.Close("")
	answer, ok = RefuseSignal(c.Due(now)[0], "gone")
	if !ok || answer.Kind != SignalAck {
		t.Fatalf("a close is answered with %+v", answer)
	}
	if c.Receive(answer); !c.Drained() {
		t.Error("the close is still to be sent")
	}
}

func TestLinkIgnoresStrangers(t *testing.T) {
	l := NewLink(linkBase)
	for _, change := range []func(*Signal){
		func(s *Signal) { s.Session = "other" },
		func(s *Signal) { s.Generation++ },
		func(s *Signal) { s.Viewer = "2-x" },
		func(s *Signal) { s.Data = make([]byte, MaxFrame+1) },
		func(s *Signal) { s.Seq = 0 },
	} {
		s := linkBase
		s.Kind, s.Seq = SignalFrame, 1
		change(&s)
		if got := l.Receive(s); got != nil {
			t.Errorf("took %+v", s)
		}
	}
	if out := l.Due(time.Unix(0, 0)); len(out) != 0 {
		t.Errorf("answered %+v", out)
	}
}

// A way that loses, repeats and reorders must still give each frame once and in order.
func TestLinkOverABadWay(t *testing.T) {
	for seed := range uint64(10) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		a, b := NewLink(linkBase), NewLink(linkBase)
		now := time.Unix(0, 0)
		var toA, toB []Signal
		carry := func(pipe []Signal, out []Signal) []Signal {
			for _, s := range out {
				for range rnd.IntN(3) { // 0: lost, 2: repeated
					pipe = append(pipe, s)
				}
			}
			for range min(len(pipe), 3) {
				i, j := rnd.IntN(len(pipe)), rnd.IntN(len(pipe))
				pipe[i], pipe[j] = pipe[j], pipe[i]
			}
			return pipe
		}
		const frames = 200
		var sentA, sentB int
		var gotA, gotB [][]byte
		for step := 0; step < 20_000 && (len(gotA) < frames || len(gotB) < frames); step++ {
			if sentA < frames && a.Send(fmt.Append(nil, "a", sentA)) == nil {
				sentA++
			}
			if sentB < frames && b.Send(fmt.Append(nil, "b", sentB)) == nil {
				sentB++
			}
			toB, toA = carry(toB, a.Due(now)), carry(toA, b.Due(now))
			for range min(len(toB), 4) { // what stays comes late
				gotB, toB = append(gotB, b.Receive(toB[len(toB)-1])...), toB[:len(toB)-1]
			}
			for range min(len(toA), 4) {
				gotA, toA = append(gotA, a.Receive(toA[len(toA)-1])...), toA[:len(toA)-1]
			}
			now = now.Add(10 * time.Millisecond)
		}
		for i := range frames {
			if i >= len(gotB) || !bytes.Equal(gotB[i], fmt.Append(nil, "a", i)) || i >= len(gotA) || !bytes.Equal(gotA[i], fmt.Append(nil, "b", i)) {
				t.Fatalf("seed %d: frame %d is wrong; %d and %d came", seed, i, len(gotA), len(gotB))
			}
		}
	}
}

func FuzzLinkReceive(f *testing.F) {
	f.Add([]byte{1, 0, 1, 0, 2, 0, 2, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		l := NewLink(linkBase)
		kinds := []SignalKind{SignalOpen, SignalFrame, SignalClose, SignalAck, "new"}
		var last uint64
		for ; len(script) >= 2; script = script[2:] {
			s := linkBase
			s.Kind = kinds[int(script[0])%len(kinds)]
			s.Seq = uint64(script[1])
			s.Ack = uint64(script[0])
			s.Data = binary.BigEndian.AppendUint64(nil, s.Seq)
			for _, d := range l.Receive(s) {
				if n := binary.BigEndian.Uint64(d); n <= last {
					t.Fatalf("frame %d after %d", n, last)
				} else {
					last = n
				}
			}
			if l.earlyBytes < 0 || l.earlyBytes > LinkBytes || len(l.early) > LinkFrames {
				t.Fatalf("%d early, %d bytes", len(l.early), l.earlyBytes)
			}
			l.Due(time.Unix(int64(last), 0))
		}
	})
}
