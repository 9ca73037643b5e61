package instance

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gamepad"
)

// padEnv makes the test binary an application that plays with a gamepad.
const padEnv = "PERIGEE_TEST_PAD"

// play says what a gamepad is and does, with the kernel's own calls.
func play() error {
	for {
		err := playOnce()
		if err != nil {
			return err
		}
		fmt.Println("unplugged")
	}
}

func playOnce() error {
	var event, joy *os.File
	var err error
	for event == nil {
		if event, err = os.Open("/dev/input/event0"); err != nil {
			time.Sleep(5 * time.Millisecond)
		}
	}
	defer event.Close()
	if joy, err = os.Open("/dev/input/js0"); err != nil {
		return err
	}
	defer joy.Close()
	ask := func(f *os.File, req uint32, size int) []byte {
		b := make([]byte, size)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(req|2<<30|uint32(size)<<16), uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
			fmt.Printf("ioctl %x: %v\n", req, errno)
		}
		return b
	}
	name := ask(event, 'E'<<8|0x06, 64)
	range0 := ask(event, 'E'<<8|0x40, 24)
	fmt.Printf("name %s from %d to %d axes %d buttons %d\n", strings.TrimRight(string(name), "\x00"),
		int32(binary.LittleEndian.Uint32(range0[4:])), int32(binary.LittleEndian.Uint32(range0[8:])), ask(joy, 'j'<<8|0x11, 1)[0], ask(joy, 'j'<<8|0x12, 1)[0])
	go func() {
		b := make([]byte, 8)
		for {
			if n, err := unix.Read(int(joy.Fd()), b); n < 8 || err != nil {
				return
			}
			fmt.Printf("js type %d number %d value %d\n", b[6], b[7], int16(binary.LittleEndian.Uint16(b[4:])))
		}
	}()
	b := make([]byte, 24)
	for {
		if n, _ := unix.Read(int(event.Fd()), b); n < 24 {
			return nil
		}
		fmt.Printf("event type %d code %d value %d\n", binary.LittleEndian.Uint16(b[16:]), binary.LittleEndian.Uint16(b[18:]), int32(binary.LittleEndian.Uint32(b[20:])))
	}
}

// visibleTest copies this program to where an instance's user may read it.
func visibleTest(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "pgpad")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(dir, "pad")
	if err := os.WriteFile(p, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

// pads connects to an instance's gamepads, as the stream process does.
func (s *testShim) pads() net.Conn {
	s.t.Helper()
	c, err := s.dir.DialPads(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

func happen(t *testing.T, c net.Conn, events ...gamepad.Event) {
	t.Helper()
	for _, e := range events {
		if _, err := c.Write(e.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
}

// saw waits until the application has said something.
func (s *testShim) saw(text string) {
	s.t.Helper()
	until(s.t, text, 10*time.Second, func() bool {
		b, _ := os.ReadFile(s.dir.AppLog())
		return strings.Contains(string(b), text)
	})
}

func TestGamepadReachesAProgram(t *testing.T) {
	t.Parallel()
	program := visibleTest(t)
	s := startShim(t, api.App{Command: []string{program}, Env: map[string]string{padEnv: "1"}, ReadOnly: []string{filepath.Dir(program)}}, api.Screen{Width: 64, Height: 64})
	s.wait(api.ObservedRunning)
	c := s.pads()
	happen(t, c, gamepad.Event{Kind: gamepad.Plug})
	s.saw("name Microsoft X-Box 360 pad from -32768 to 32767 axes 8 buttons 11")
	s.saw("js type 129 number 0 value 0")      // the state at first
	s.saw("js type 130 number 2 value -32767") // a trigger at rest
	happen(t, c,
		gamepad.Event{Kind: gamepad.Button, Index: 0, Value: 255},
		gamepad.Event{Kind: gamepad.Axis, Index: 3, Value: -32767},
		gamepad.Event{Kind: gamepad.Button, Index: 7, Value: 128},
		gamepad.Event{Kind: gamepad.Button, Index: 14, Value: 255},
		gamepad.Event{Slot: 1, Kind: gamepad.Button, Index: 1, Value: 255}, // another's
		gamepad.Event{Kind: gamepad.Button, Index: 16, Value: 255})
	for _, want := range []string{
		"event type 1 code 304 value 1", "js type 1 number 0 value 1",
		"event type 3 code 4 value -32767", "js type 2 number 4 value -32767",
		"event type 3 code 5 value 128", "event type 3 code 16 value -1", "js type 2 number 6 value -32767",
		"event type 1 code 316 value 1", "js type 1 number 8 value 1",
	} {
		s.saw(want)
	}
	b, _ := os.ReadFile(s.dir.AppLog())
	if strings.Contains(string(b), "code 305") {
		t.Error("another gamepad's button came")
	}
	_ = c.Close() // the stream process ends: nobody holds the gamepads
	s.saw("unplugged")
	c = s.pads()
	happen(t, c, gamepad.Event{Kind: gamepad.Plug}, gamepad.Event{Kind: gamepad.Button, Index: 3, Value: 255})
	s.saw("js type 129 number 3 value 1")
}

func TestNoGamepadsWithoutPermission(t *testing.T) {
	t.Parallel()
	s := startShim(t, api.App{Command: []string{"sh", "-c", "ls -d /dev/input; echo looked; sleep 60"},
		Permissions: api.Permissions{Gamepads: api.GamepadsNone}}, api.Screen{Width: 64, Height: 64})
	s.wait(api.ObservedRunning)
	if _, err := s.dir.DialPads(t.Context()); err == nil || !strings.Contains(err.Error(), "permits none") {
		t.Errorf("connected to gamepads: %v", err)
	}
	s.saw("looked")
	if b, _ := os.ReadFile(s.dir.AppLog()); !strings.Contains(string(b), "cannot access") {
		t.Errorf("the sandbox has devices: %s", b)
	}
}

// The home is the application's own, seen from outside.
func TestHomeThroughTheDoor(t *testing.T) {
	t.Parallel()
	s := startShim(t, api.App{Command: []string{"sh", "-c", "echo hello >$HOME/mine; echo written; sleep 60"}}, api.Screen{Width: 64, Height: 64})
	s.wait(api.ObservedRunning)
	s.saw("written")
	home, err := s.dir.OpenHome(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	fd, err := unix.Openat(int(home.Fd()), "mine", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "mine")
	defer f.Close()
	b := make([]byte, 16)
	if n, _ := f.Read(b); string(b[:n]) != "hello\n" {
		t.Errorf("the file holds %q", b[:n])
	}
}
