package gateway

import (
	"bufio"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAdminSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := ListenAdmin(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket has mode %v, %v", info.Mode(), err)
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			accepted <- c
		}
	}()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server := wait(t, "connection of the own user", accepted)
	_ = server.Close()

	if _, err := ListenAdmin(path); err == nil || !strings.Contains(err.Error(), "another scheduler") {
		t.Errorf("a second listener: %v", err)
	}
	l.(*peerListener).Listener.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := ListenAdmin(path) // the socket that a dead scheduler left
	if err != nil {
		t.Fatalf("over a stale socket: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}

	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenAdmin(path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("over a file: %v", err)
	}
	if _, err := ListenAdmin("/tmp/" + strings.Repeat("x", 120)); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("over a long path: %v", err)
	}
}

func TestAdminSocketRefusesStrangers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := ListenAdmin(path)
	if err != nil {
		t.Fatal(err)
	}
	var asked []uint32
	l.(*peerListener).allowed = func(uid uint32) bool {
		asked = append(asked, uid)
		return len(asked) > 1
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
	}()
	stranger, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	_ = stranger.SetReadDeadline(time.Now().Add(patience))
	if _, err := bufio.NewReader(stranger).ReadByte(); err == nil || os.IsTimeout(err) {
		t.Errorf("a stranger's connection was not closed: %v", err)
	}
	friend, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer friend.Close()
	_ = wait(t, "the next connection", accepted).Close()
	if len(asked) != 2 || int(asked[0]) != os.Getuid() {
		t.Errorf("asked about the users %v", asked)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
