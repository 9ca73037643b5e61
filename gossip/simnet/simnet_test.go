package simnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
)

func even(d time.Duration) func(string, string) Path {
	return func(string, string) Path { return Path{Delay: d} }
}

// pair connects two hosts by a stream.
func pair(t *testing.T, n *Net) (a, b net.Conn) {
	t.Helper()
	l, err := n.Host("10.0.0.2").Listen(":80")
	if err != nil {
		t.Fatal(err)
	}
	if a, err = n.Host("10.0.0.1").Dial(t.Context(), "10.0.0.2:80"); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func mustRead(t *testing.T, c net.Conn, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func mustWrite(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
}

func TestStreamTakesItsTimeAndKeepsItsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1, func(from, to string) Path {
			return Path{Delay: 40 * time.Millisecond, Jitter: 30 * time.Millisecond, Loss: 0.2}
		})
		defer n.Close()
		a, b := pair(t, n)
		begun := time.Now()
		want := ""
		for i := range 50 {
			s := fmt.Sprintf("%03d", i)
			want += s
			mustWrite(t, a, s)
		}
		if got := mustRead(t, b, len(want)); got != want {
			t.Errorf("read %q", got)
		}
		if took := time.Since(begun); took < 240*time.Millisecond {
			t.Errorf("fifty pieces, a fifth of them lost, took %s", took)
		}
		if a.Close() != nil {
			t.Error("close failed")
		}
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("after the other's close: %v", err)
		}
		time.Sleep(5 * time.Second)
		if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("a write to nobody: %v", err)
		}
	})
}

func TestCutHoldsStreamsAndLosesPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1, even(10*time.Millisecond))
		defer n.Close()
		a, b := pair(t, n)
		n.Cut(func(from, _ string) bool { return from == "10.0.0.1" }) // one direction only
		mustWrite(t, a, "held")
		mustWrite(t, b, "through")
		if got := mustRead(t, a, 7); got != "through" {
			t.Errorf("read %q", got)
		}
		if err := b.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Read(make([]byte, 4)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("across a cut: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := n.Host("10.0.0.1").Dial(ctx, "10.0.0.2:80"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a connection across a cut: %v", err)
		}
		if err := b.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Minute, func() { n.Cut(nil) })
		if got := mustRead(t, b, 4); got != "held" {
			t.Errorf("read %q after the cut", got)
		}
	})
}

func TestNobodyListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1, even(10*time.Millisecond))
		defer n.Close()
		a, b := pair(t, n)
		begun := time.Now()
		if _, err := n.Host("10.0.0.1").Dial(t.Context(), "10.0.0.2:81"); !errors.Is(err, syscall.ECONNREFUSED) || time.Since(begun) != 20*time.Millisecond {
			t.Errorf("a closed port answers %v after %s", err, time.Since(begun))
		}
		n.Host("10.0.0.2").Crash()
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the other host crashed: %v", err)
		}
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("on the crashed host: %v", err)
		}
		if _, err := n.Host("10.0.0.1").Dial(t.Context(), "10.0.0.2:80"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("after a crash: %v", err)
		}
		if _, err := n.Host("10.0.0.2").Listen(":80"); err != nil {
			t.Errorf("listening again after a crash: %v", err)
		}
	})
}

func TestWriterWaitsForTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1, even(time.Millisecond))
		defer n.Close()
		a, b := pair(t, n)
		mustWrite(t, a, string(make([]byte, window)))
		if err := a.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a write beyond the window: %v", err)
		}
		if err := a.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		go func() { time.Sleep(time.Second); _ = mustRead(t, b, window) }()
		mustWrite(t, a, "x")
		if got := mustRead(t, b, 1); got != "x" {
			t.Errorf("read %q", got)
		}
	})
}

// TestMemberlistAcrossACut lets two members find, lose and find each other.
func TestMemberlistAcrossACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1, func(string, string) Path {
			return Path{Delay: 20 * time.Millisecond, Jitter: time.Millisecond, Loss: 0.02}
		})
		defer n.Close()
		var members []*memberlist.Memberlist
		for i := range 3 {
			tr, err := n.Host(fmt.Sprintf("10.0.0.%d", i+1)).Transport(7946)
			if err != nil {
				t.Fatal(err)
			}
			c := memberlist.DefaultLANConfig()
			c.Name, c.Transport, c.Logger = tr.host.ip, tr, log.New(io.Discard, "", 0)
			m, err := memberlist.Create(c)
			if err != nil {
				t.Fatal(err)
			}
			members = append(members, m)
			if i > 0 {
				if _, err := m.Join([]string{"10.0.0.1:7946"}); err != nil {
					t.Fatal(err)
				}
			}
		}
		defer func() {
			for _, m := range members {
				if err := m.Shutdown(); err != nil {
					t.Error(err)
				}
			}
		}()
		time.Sleep(2 * time.Second)
		if got := members[2].NumMembers(); got != 3 {
			t.Errorf("%d members found each other", got)
		}
		n.Cut(func(from, to string) bool { return from == "10.0.0.3" || to == "10.0.0.3" })
		time.Sleep(time.Minute)
		if got := members[0].NumMembers(); got != 2 {
			t.Errorf("%d members after a minute's cut", got)
		}
		n.Cut(nil)
		if _, err := members[2].Join([]string{"10.0.0.1:7946"}); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		if got := members[1].NumMembers(); got != 3 {
			t.Errorf("%d members after the cut", got)
		}
		if s := n.Stats(); s.Packets == 0 || s.Lost == 0 {
			t.Errorf("carried %+v", s)
		}
	})
}
