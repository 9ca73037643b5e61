package gamepad

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of a seccomp listener (linux/seccomp.h) that x/sys does not name.
const (
	ioctlIDValid = 0x40082102
	ioctlAddFD   = 0x40182103

	noticeSize = 80
	replySize  = 24
	addFDSize  = 24
)

// Filter has the calling thread's ioctls of the input layer, and those of every
// process it starts from now on, answered by the listener it returns. It cannot
// be undone, so the thread must be one of its own.
func Filter() (*os.File, error) {
	if os.Geteuid() != 0 { // else a program of more rights could be fooled by it
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return nil, fmt.Errorf("give up new privileges: %w", err)
		}
	}
	ld := func(off uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
	}
	jeq := func(k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	ret := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	program := []unix.SockFilter{ // struct seccomp_data: number 0, architecture 4, second argument 24
		ld(4), jeq(nativeArch, 0, 6),
		ld(0), jeq(unix.SYS_IOCTL, 0, 4),
		ld(24), {Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xff00},
		jeq(typeEvdev<<8, 2, 0), jeq(typeJoy<<8, 1, 0),
		ret(unix.SECCOMP_RET_ALLOW), ret(unix.SECCOMP_RET_USER_NOTIF),
	}
	f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&f)))
	if errno != 0 {
		return nil, fmt.Errorf("listen to ioctls (Linux 5.9 or later): %w", errno)
	}
	unix.CloseOnExec(int(fd))
	return os.NewFile(fd, "seccomp listener"), nil
}

// Serve answers for the gamepads until no process is left under the filter, or
// the listener is closed.
func (p *Pads) Serve(listener *os.File) {
	fd := int(listener.Fd()) // blocking: poll below says when to receive
	for {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(polled, -1); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return
		}
		if polled[0].Revents&unix.POLLIN == 0 {
			return // the last one has ended
		}
		notice := make([]byte, noticeSize)
		if err := request(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, notice); err != nil {
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) {
				continue // the caller is gone
			}
			return
		}
		n := notification{listener: fd, id: binary.LittleEndian.Uint64(notice), pid: binary.LittleEndian.Uint32(notice[8:])}
		args := notice[32:]
		n.fd, n.req, n.arg = int32(binary.LittleEndian.Uint32(args)), binary.LittleEndian.Uint32(args[8:]), binary.LittleEndian.Uint64(args[16:])
		reply := make([]byte, replySize)
		binary.LittleEndian.PutUint64(reply, n.id)
		a, ours := p.answer(n)
		switch {
		case !ours:
			binary.LittleEndian.PutUint32(reply[20:], unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE)
		case a.errno != 0:
			binary.LittleEndian.PutUint32(reply[16:], uint32(-int32(a.errno)))
		default:
			binary.LittleEndian.PutUint64(reply[8:], uint64(a.value))
		}
		_ = request(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, reply) // the caller may be gone
	}
}

func request(fd int, req uint, b []byte) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return errno
	}
	return nil
}

// notification is one ioctl that waits for its answer.
type notification struct {
	listener int
	id       uint64
	pid      uint32
	fd       int32
	req      uint32
	arg      uint64
}

func (n notification) proc(name string) string { return fmt.Sprintf("/proc/%d/%s", n.pid, name) }

// valid says whether the caller still waits, so that its number is not another's.
func (n notification) valid() bool {
	b := binary.LittleEndian.AppendUint64(nil, n.id)
	return request(n.listener, ioctlIDValid, b) == nil
}

// answer answers an ioctl; ours = it is one on a gamepad.
func (p *Pads) answer(n notification) (a answer, ours bool) {
	var st unix.Stat_t
	if err := unix.Stat(n.proc("fd/"+strconv.Itoa(int(n.fd))), &st); err != nil {
		return a, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clients[st.Ino]
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		node := p.node(st)
		if node == nil {
			return a, false
		}
		if !p.devices[node.Slot].plugged {
			return refuse(unix.ENODEV), true
		}
		var err error
		if c, err = p.adopt(n, node); err != nil {
			p.log.Warn("gamepad not opened", "error", err)
			return refuse(unix.ENODEV), true
		}
	}
	if c == nil {
		return a, false
	}
	typ, _, size := split(n.req)
	mem, err := os.OpenFile(n.proc("mem"), os.O_RDWR, 0)
	if err != nil || !n.valid() {
		return refuse(unix.EFAULT), true
	}
	defer func() { _ = mem.Close() }()
	in := make([]byte, size)
	if typ == typeEvdev && byte(n.req) == setClock { // what others give is not read; EVIOCGRAB's is no address
		if _, err := mem.ReadAt(in, int64(n.arg)); err != nil {
			return refuse(unix.EFAULT), true
		}
	}
	switch {
	case typ == typeEvdev && !c.joy:
		a = c.evdev(&p.devices[c.slot], n.req, in)
	case typ == typeJoy && c.joy:
		a = c.joydev(n.req)
	default:
		return refuse(unix.EINVAL), true
	}
	if len(a.out) > 0 {
		if _, err := mem.WriteAt(a.out, int64(n.arg)); err != nil {
			return refuse(unix.EFAULT), true
		}
	}
	return a, true
}

func (p *Pads) node(st unix.Stat_t) *Node {
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return nil
	}
	for i := range p.Nodes {
		if p.Nodes[i].rdev == st.Rdev {
			return &p.Nodes[i]
		}
	}
	return nil
}

// adopt puts a socket in the place of the device file that a program opened.
func (p *Pads) adopt(n notification, node *Node) (*client, error) {
	p.sweep()
	if len(p.clients) >= maxClients {
		return nil, errors.New("too many files of gamepads are open")
	}
	info, err := os.ReadFile(n.proc("fdinfo/" + strconv.Itoa(int(n.fd))))
	if err != nil {
		return nil, fmt.Errorf("look at the program's file: %w", err)
	}
	flags := fileFlags(string(info))
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	defer func() { _ = unix.Close(pair[1]) }() // the program has its own
	fail := func(err error) (*client, error) { return nil, errors.Join(err, unix.Close(pair[0])) }
	if flags&unix.O_NONBLOCK != 0 {
		if err := unix.SetNonblock(pair[1], true); err != nil {
			return fail(err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(pair[1], &st); err != nil {
		return fail(err)
	}
	add := make([]byte, addFDSize)
	binary.LittleEndian.PutUint64(add, n.id)
	binary.LittleEndian.PutUint32(add[8:], unix.SECCOMP_ADDFD_FLAG_SETFD)
	binary.LittleEndian.PutUint32(add[12:], uint32(pair[1]))
	binary.LittleEndian.PutUint32(add[16:], uint32(n.fd))
	binary.LittleEndian.PutUint32(add[20:], uint32(flags&unix.O_CLOEXEC))
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(n.listener), ioctlAddFD, uintptr(unsafe.Pointer(&add[0]))); errno != 0 {
		return fail(fmt.Errorf("replace the program's file: %w", errno))
	}
	c := &client{slot: node.Slot, joy: node.joy, fd: pair[0]}
	p.clients[st.Ino] = c
	if c.joy {
		c.write(p.begun, p.devices[c.slot].all(), jsInit)
	}
	return c, nil
}

// fileFlags reads the flags of /proc/…/fdinfo.
func fileFlags(info string) int {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, _ := strconv.ParseInt(strings.TrimSpace(v), 8, 64) // the kernel writes it so
			return int(flags)
		}
	}
	return 0
}

// sweep forgets files that programs have closed; mu is held.
func (p *Pads) sweep() {
	for ino, c := range p.clients {
		polled := []unix.PollFd{{Fd: int32(c.fd)}}
		if n, err := unix.Poll(polled, 0); err == nil && n > 0 && polled[0].Revents&unix.POLLHUP != 0 {
			_ = unix.Close(c.fd)
			delete(p.clients, ino)
		}
	}
}

// Possible says whether this machine lets a program's ioctls be answered.
func Possible() error {
	answer := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		f, err := Filter()
		if err == nil {
			err = f.Close()
		}
		answer <- err
	}()
	return <-answer
}
