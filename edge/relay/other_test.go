package relay

import (
	"net"
	"testing"
	"time"
)

// greeting is over the five bytes under which pion's TCP client waits for more.
const greeting = "a greeting from the other side"

// meet says whether a packet goes from one allocation to another and back.
func meet(t *testing.T, a, b net.PacketConn, within time.Duration) bool {
	t.Helper()
	// A permission each: what comes from elsewhere is dropped.
	_, _ = b.WriteTo([]byte(greeting), a.LocalAddr())
	for _, way := range [][2]net.PacketConn{{a, b}, {b, a}} {
		if _, err := way[0].WriteTo([]byte(greeting), way[1].LocalAddr()); err != nil {
			return false
		}
		if err := way[1].SetReadDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2048)
		n, from, err := way[1].ReadFrom(buf)
		if err != nil || string(buf[:n]) != greeting || from.String() != way[0].LocalAddr().String() {
			return false
		}
	}
	return true
}

// A session of another node: its stream process and its viewers meet here, and
// reach nothing else.
func TestSessionOfAnotherNode(t *testing.T) {
	r := start(t)
	if err := r.run.SetAddresses([]string{"198.51.100.7"}); err != nil { // nothing leads back from there
		t.Fatal(err)
	}
	bystander := r.session("other", 1)
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			stream := r.allocate(r.stream(network, "away", 1))
			viewer := r.allocate(r.member(network, "away", 1))
			if !meet(t, viewer, stream, patience) || !meet(t, stream, viewer, patience) {
				t.Fatal("viewer and stream do not meet")
			}
			for name, pair := range map[string][2]net.PacketConn{
				"two viewers":        {viewer, r.allocate(r.member(network, "away", 1))},
				"two streams":        {stream, r.allocate(r.stream(network, "away", 1))},
				"another generation": {viewer, r.allocate(r.stream(network, "away", 2))},
				"another session":    {viewer, r.allocate(r.stream(network, "other", 1))},
			} {
				if meet(t, pair[0], pair[1], 100*time.Millisecond) {
					t.Errorf("%s meet", name)
				}
			}
			for _, a := range []net.PacketConn{viewer, stream} {
				if echoes(t, a, bystander.LocalAddr(), 100*time.Millisecond) {
					t.Error("another session's media port was reached")
				}
			}
			// A socket of the host is nobody's other side, whatever port it has.
			at := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: viewer.LocalAddr().(*net.UDPAddr).Port}
			if _, err := r.port().WriteTo([]byte("intruder"), at); err != nil {
				t.Fatal(err)
			}
			if !meet(t, viewer, stream, patience) {
				t.Error("viewer and stream do not meet any more")
			}
		})
	}
}
