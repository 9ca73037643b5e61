package capture

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// A little of PulseAudio's native protocol (its PROTOCOL file and
// src/pulsecore/native-common.h): enough to record
// and to play. Packets have a 20-byte
// descriptor; commands are tagged structures; sound comes as raw blocks.
const (
	pulseVersion = 15 // before stream formats; PulseAudio speaks 8 and later

	pulseError        = 0
	pulseReply        = 2
	pulseCreatePlay   = 3
	pulseCreateRecord = 5
	pulseAuth         = 8
	pulseSetName      = 9
	pulseRequest      = 61
	pulsePlayKilled   = 64
	pulseRecordKilled = 65
	pulseSuspendSink  = 70
	pulseRecordBuffer = 73

	pulseDescriptor = 20
	pulseCommand    = ^uint32(0) // the channel of commands
	pulseNone       = ^uint32(0) // no index, no limit
	pulseMost       = 1 << 20    // of a packet; we ask for blocks of 2 KiB

	formatS16LE = 3
	channelMono = 0
	frontLeft   = 1
	frontRight  = 2
)

// pulse is a connection to a sound server.
type pulse struct {
	c      net.Conn
	r      *bufio.Reader
	packet []byte
}

// pulsePath gives the socket of "unix:/path".
func pulsePath(server string) (string, error) {
	path, ok := strings.CutPrefix(server, "unix:")
	if !ok || path == "" {
		return "", fmt.Errorf("sound server %q: give \"unix:\" and the path of its socket", server)
	}
	return path, nil
}

func pulseDial(ctx context.Context, path string) (pulse, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return pulse{}, fmt.Errorf("connect to sound server: %w", err)
	}
	return pulse{c: c, r: bufio.NewReaderSize(c, 8<<10)}, nil
}

// login says who we are. It leaves a deadline for the commands that follow.
func (s *pulse) login() error {
	_ = s.c.SetDeadline(time.Now().Add(roundTrip)) // it fails on a closed socket only
	// The cookie may be empty: the kernel vouches for our user, and an
	// instance's own server is open to whoever reaches its socket.
	if _, err := s.ask(pulseAuth, 0, tags(nil).u32(pulseVersion).bytes(make([]byte, 256))); err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	if _, err := s.ask(pulseSetName, 1, tags(nil).properties("application.name", "perigee")); err != nil {
		return fmt.Errorf("say our name: %w", err)
	}
	return nil
}

// ask sends a command and waits for its reply.
func (s *pulse) ask(command, tag uint32, args tags) ([]byte, error) {
	if err := pulseWrite(s.c, command, tag, args); err != nil {
		return nil, err
	}
	for {
		channel, body, err := pulseRead(s.r, s.packet)
		s.packet = body
		if err != nil {
			return nil, err
		}
		if channel != pulseCommand {
			continue
		}
		c, t, rest, err := pulseHead(body)
		switch {
		case err != nil:
			return nil, err
		case t != tag:
		case c == pulseReply:
			return rest, nil
		case c == pulseError:
			code, _ := pulseU32(rest)
			return nil, fmt.Errorf("refused with code %d: %w", code, errPulse)
		}
	}
}

// Close ends the connection.
func (s *pulse) Close() { _ = s.c.Close() } // nothing is lost by its failing

// tags builds a tagged structure.
type tags []byte

func (t tags) u32(v uint32) tags  { return binary.BigEndian.AppendUint32(append(t, 'L'), v) }
func (t tags) text(s string) tags { return append(append(append(t, 't'), s...), 0) }
func (t tags) flag(v bool) tags {
	if v {
		return append(t, '1')
	}
	return append(t, '0')
}
func (t tags) bytes(b []byte) tags {
	return append(binary.BigEndian.AppendUint32(append(t, 'x'), uint32(len(b))), b...)
}

// properties holds one property: who records.
func (t tags) properties(key, value string) tags {
	t = append(t, 'P')
	t = t.text(key).u32(uint32(len(value) + 1)).bytes(append([]byte(value), 0))
	return append(t, 'N')
}

// pulseWrite sends one command.
func pulseWrite(w io.Writer, command, tag uint32, args tags) error {
	body := append(tags(nil).u32(command).u32(tag), args...)
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	b = binary.BigEndian.AppendUint32(b, pulseCommand)
	b = append(b, make([]byte, 12)...) // offset and flags
	if _, err := w.Write(append(b, body...)); err != nil {
		return fmt.Errorf("write to sound server: %w", err)
	}
	return nil
}

// errPulse says that the sound server refused or does not speak the protocol.
var errPulse = errors.New("sound server")

// pulseRead reads one packet into buf, which grows.
func pulseRead(r io.Reader, buf []byte) (channel uint32, body []byte, err error) {
	var head [pulseDescriptor]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, buf, fmt.Errorf("read from sound server: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > pulseMost {
		return 0, buf, fmt.Errorf("packet of %d bytes: %w", n, errPulse)
	}
	if cap(buf) < int(n) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		return 0, buf, fmt.Errorf("read from sound server: %w", err)
	}
	return binary.BigEndian.Uint32(head[4:]), buf, nil
}

// pulseHead reads a command's number and tag, each an 'L' and 4 bytes.
func pulseHead(b []byte) (command, tag uint32, rest []byte, err error) {
	if len(b) < 10 || b[0] != 'L' || b[5] != 'L' {
		return 0, 0, nil, fmt.Errorf("malformed command: %w", errPulse)
	}
	return binary.BigEndian.Uint32(b[1:]), binary.BigEndian.Uint32(b[6:]), b[10:], nil
}

// pulseU32 reads the number that a reply starts with.
func pulseU32(b []byte) (uint32, error) {
	if len(b) < 5 || b[0] != 'L' {
		return 0, fmt.Errorf("malformed reply: %w", errPulse)
	}
	return binary.BigEndian.Uint32(b[1:]), nil
}

// recordStream asks for 16-bit stereo at the given rate from what plays on the
// default sink, in blocks of fragment bytes.
func recordStream(rate, fragment uint32) tags {
	t := append(tags(nil), 'a', formatS16LE, 2)
	t = binary.BigEndian.AppendUint32(t, rate)
	t = append(t, 'm', 2, frontLeft, frontRight)
	t = t.u32(pulseNone).text("@DEFAULT_MONITOR@") // no index: by name
	t = t.u32(pulseNone).flag(false).u32(fragment) // as much as the server likes, not corked
	for range 7 {                                  // no_remap, no_remix, fix_format, fix_rate, fix_channels, no_move, variable_rate
		t = t.flag(false)
	}
	t = t.flag(false).flag(true)                             // peak_detect; adjust_latency: blocks come when they are due
	t = t.properties("media.name", "perigee").u32(pulseNone) // not one application's sound alone
	return t.flag(false).flag(false).flag(false)             // early_requests, dont_inhibit_auto_suspend, fail_on_suspend
}
