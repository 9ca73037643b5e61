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
	// ForeignMemory and ForeignUplink are the same of memory and of the way out.
	ForeignMemory, ForeignUplink int
	// Uplink is the used share of the network's way out; 0 when its speed is unknown.
	Uplink     int
	UplinkMbps int // the way out's speed in Mb/s; 0 = unknown
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
	pages   uint64 // of memory that our processes hold

	way wayOut
}

// usage is the machine's processor time in ticks, and of it ours.
type usage struct {
	busy, total uint64
	own         map[int]uint64 // by process
}

func newProcMeter(roots func() []int, uplinkMbps int) *procMeter {
	return &procMeter{root: "/proc", sys: "/sys", roots: roots, way: wayOut{operator: uplinkMbps}}
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
	l.Uplink, l.ForeignUplink, l.UplinkMbps = m.uplink(now)
	used, total, err := parseMeminfo(string(mem))
	if err != nil {
		return l, err
	}
	l.Memory = int(used * 100 / total)
	if m.roots != nil {
		ours := min(m.pages*uint64(os.Getpagesize())/1024, used) // of two sharers, both are counted
		l.ForeignMemory = int((used - ours) * 100 / total)
	}
	return l, nil
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

// own gives the ticks of our processes, and notes what memory they hold: the
// roots, what is in their kernel sessions, and what those started.
func (m *procMeter) own() map[int]uint64 {
	type process struct {
		parent, session int
		ticks, pages    uint64
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
		const ppid, session, utime, stime, rss = 1, 3, 11, 12, 21
		if len(f) <= rss {
			continue
		}
		var n [5]int
		for i, at := range []int{ppid, session, utime, stime, rss} {
			n[i], _ = strconv.Atoi(f[at]) // the kernel writes numbers
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(e))); err == nil {
			all[pid] = process{n[0], n[1], uint64(n[2]) + uint64(n[3]), uint64(max(n[4], 0))}
		}
	}
	own := map[int]uint64{}
	m.pages = 0
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
				m.pages += p.pages
			}
		}
	}
	return own
}
