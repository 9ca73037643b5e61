package link

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"
)

// drain takes all that arrives until a time, and gives when each did.
func drain(l *Link[int], until time.Duration) (got []int, at []time.Duration) {
	for {
		v, t, ok := l.Receive(until)
		if !ok {
			return got, at
		}
		got, at = append(got, v), append(at, t)
	}
}

func TestRateAndDelay(t *testing.T) {
	l := New[int](Shape{Kbps: 1000, Delay: 20 * time.Millisecond}, 1)
	for i := range 3 {
		l.Send(0, 1250, i) // 10 ms each
	}
	if next, ok := l.Next(); !ok || next != 10*time.Millisecond {
		t.Errorf("next is %s, %v", next, ok)
	}
	got, at := drain(l, time.Second)
	if len(got) != 3 || at[0] != 30*time.Millisecond || at[1] != 40*time.Millisecond || at[2] != 50*time.Millisecond {
		t.Errorf("%v at %v", got, at)
	}
	if _, ok := l.Next(); ok {
		t.Error("an empty link has something to do")
	}
}

func TestQueueDropsItsTail(t *testing.T) {
	l := New[int](Shape{Kbps: 1000, Queue: 30 * time.Millisecond}, 1)
	for i := range 10 {
		l.Send(0, 1250, i)
	}
	got, _ := drain(l, time.Second)
	// Four: the last of them waited exactly as long as it may.
	if len(got) != 4 || got[3] != 3 || l.Dropped != 6 || l.Passed != 4 {
		t.Errorf("%v arrived, %d were dropped", got, l.Dropped)
	}
}

func TestCutSlowsWhatWaits(t *testing.T) {
	l := New[int](Shape{Kbps: 10_000}, 1)
	for i := range 20 {
		l.Send(0, 1250, i) // 1 ms each
	}
	l.Set(10*time.Millisecond, Shape{Kbps: 1000})
	got, at := drain(l, 10*time.Second)
	if len(got) != 20 || at[9] != 10*time.Millisecond || at[19] != 110*time.Millisecond {
		t.Errorf("%d arrived, the last at %v", len(got), at)
	}
}

func TestLossByChance(t *testing.T) {
	l := New[int](Shape{Loss: 0.05}, 7)
	for i := range 10_000 {
		l.Send(time.Duration(i), 100, i)
	}
	if l.Lost < 400 || l.Lost > 600 {
		t.Errorf("%d of 10,000 lost, want about 500", l.Lost)
	}
}

func TestForwarder(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, mtu)
		for {
			n, from, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	f, err := NewForwarder(func() (netip.AddrPort, bool) { return server.LocalAddr().(*net.UDPAddr).AddrPort(), true })
	if err != nil {
		t.Fatal(err)
	}
	const way = 30 * time.Millisecond
	f.Set(Shape{Delay: way}, Shape{Delay: way})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		_ = server.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	client, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(f.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	began := time.Now()
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := client.SetReadDeadline(began.Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, mtu)
	n, err := client.Read(buf)
	if err != nil || string(buf[:n]) != "hello" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	if took := time.Since(began); took < 2*way {
		t.Errorf("came back after %s, earlier than the delays", took)
	}
	if passed, dropped, lost := f.Counts(); passed != 1 || dropped != 0 || lost != 0 || f.Bytes() != int64(n+header) {
		t.Errorf("counts %d, %d, %d, %d bytes", passed, dropped, lost, f.Bytes())
	}
}
