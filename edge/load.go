package edge

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Load is how busy a machine is, in percent.
type Load struct {
	CPU    int
	Memory int
	// Foreign is the share of the processors that programs take which are neither
	// this daemon nor of its sessions.
	Foreign int
	// Uplink is the used share of the network's way out; 0 when its speed is unknown.
	Uplink int
}

// foreignEvery is how often all processes are looked at: that costs 20 µs each.
const foreignEvery = 5 * time.Second

// procMeter reads this machine's load.
type procMeter struct {
	root, sys   string
	busy, total uint64 // at the last reading

	// roots gives the processes that are ours with all that they started; nil:
	// nothing is told of others' share.
	roots   func() []int
	looked  time.Time
	then    usage
	foreign int

	uplinkMbps int // the operator's; 0 = the interfaces' own
	sent       uint64
	sentAt     time.Time
}

// usage is the machine's processor time in ticks, and of it ours.
type usage struct {
	busy, total uint64
	own         map[int]uint64 // by process
}

func newProcMeter(roots func() []int, uplinkMbps int) *procMeter {
	return &procMeter{root: "/proc", sys: "/sys", roots: roots, uplinkMbps: uplinkMbps}
}

// read gives the load since the last call. It is for one goroutine.
func (m *procMeter) read() (Load, error) { return m.readAt(time.Now()) }

func (m *procMeter) readAt(now time.Time) (Load, error) {
	var l Load
	stat, err1 := os.ReadFile(m.root + "/stat")
	mem, err2 := os.ReadFile(m.root + "/meminfo")
	if err := errors.Join(err1, err2); err != nil {
		return l, fmt.Errorf("measure load: %w", err)
	}
	busy, total, err := parseStat(string(stat))
	if err != nil {
		return l, err
	}
	if m.total != 0 && total > m.total && busy >= m.busy {
		l.CPU = int((busy - m.busy) * 100 / (total - m.total))
	}
	m.busy, m.total = busy, total
	if m.roots != nil && now.Sub(m.looked) >= foreignEvery {
		m.look(busy, total)
		m.looked = now
	}
	l.Foreign = min(m.foreign, l.CPU)
	l.Uplink = m.uplink(now)
	l.Memory, err = parseMeminfo(string(mem))
	return l, err
}

// look finds what of the processors' time since the last look was not ours.
// What a process of ours used that began and ended between two looks counts as
// foreign.
func (m *procMeter) look(busy, total uint64) {
	u := usage{busy, total, m.own()}
	if then := m.then; then.total != 0 && total > then.total && busy >= then.busy {
		own := uint64(0)
		for pid, ticks := range u.own {
			if before := then.own[pid]; ticks >= before {
				own += ticks - before
			}
		}
		used := busy - then.busy
		m.foreign = int((used - min(own, used)) * 100 / (total - then.total))
	}
	m.then = u
}

// own gives the ticks of our processes: the roots, what is in their kernel
// sessions, and what those started.
func (m *procMeter) own() map[int]uint64 {
	type process struct {
		parent, session int
		ticks           uint64
	}
	all := map[int]process{}
	entries, _ := filepath.Glob(m.root + "/[0-9]*/stat") // the pattern is well formed
	for _, e := range entries {
		b, err := os.ReadFile(e)
		if err != nil {
			continue // it ended
		}
		s := string(b) // the name in brackets may hold anything
		f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
		const ppid, session, utime, stime = 1, 3, 11, 12
		if len(f) <= stime {
			continue
		}
		var n [4]int
		for i, at := range []int{ppid, session, utime, stime} {
			n[i], _ = strconv.Atoi(f[at]) // the kernel writes numbers
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(e))); err == nil {
			all[pid] = process{n[0], n[1], uint64(n[2]) + uint64(n[3])}
		}
	}
	own := map[int]uint64{}
	root := map[int]bool{}
	for _, r := range m.roots() {
		root[r] = true
	}
	for changed := true; changed; {
		changed = false
		for pid, p := range all {
			if _, known := own[pid]; known {
				continue
			}
			_, child := own[p.parent]
			if child || root[pid] || root[p.session] {
				own[pid], changed = p.ticks, true
			}
		}
	}
	return own
}

// uplink gives the used share of the way out, of all interfaces but the loopback.
func (m *procMeter) uplink(now time.Time) int {
	b, err := os.ReadFile(m.root + "/net/dev")
	if err != nil {
		return 0
	}
	sent, mbps := uint64(0), 0
	for line := range strings.Lines(string(b)) {
		name, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		name = strings.TrimSpace(name)
		const out = 8
		if !ok || len(f) <= out || name == "lo" {
			continue
		}
		// Bridges and virtual pairs carry what a device carries again.
		if _, err := os.Stat(filepath.Join(m.sys, "class/net", name, "device")); err != nil {
			continue
		}
		n, err := strconv.ParseUint(f[out], 10, 64)
		if err != nil {
			continue
		}
		sent += n
		if speed, err := os.ReadFile(filepath.Join(m.sys, "class/net", name, "speed")); err == nil {
			if v, err := strconv.Atoi(strings.TrimSpace(string(speed))); err == nil && v > 0 {
				mbps += v
			}
		}
	}
	if m.uplinkMbps > 0 {
		mbps = m.uplinkMbps
	}
	before, since := m.sent, now.Sub(m.sentAt).Seconds()
	m.sent, m.sentAt = sent, now
	if mbps == 0 || before == 0 || sent < before || since <= 0 {
		return 0
	}
	return int(min(float64(sent-before)*8/since/float64(mbps)/1e6*100, 100))
}
