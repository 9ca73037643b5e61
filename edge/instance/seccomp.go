package instance

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The filter is a deny list: what a desktop program has no use for and what
// has often been a way out of a sandbox. Unknown calls are allowed, so that new
// programs run; the namespaces are the wall, this is the moat.

// deniedCalls fail with EPERM.
func deniedCalls() []uint32 {
	return []uint32{
		// keys, programs and tracing in the kernel
		unix.SYS_ADD_KEY, unix.SYS_KEYCTL, unix.SYS_REQUEST_KEY, unix.SYS_BPF,
		unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
		// asynchronous calls that no filter sees
		unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
		// mounts and namespaces
		unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_UNSHARE,
		unix.SYS_SETNS, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK,
		unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_MOUNT_SETATTR,
		unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT,
		// the machine
		unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE,
		unix.SYS_DELETE_MODULE, unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT,
		unix.SYS_QUOTACTL, unix.SYS_SYSLOG, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME,
		unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX, unix.SYS_VHANGUP, unix.SYS_LOOKUP_DCOOKIE,
		unix.SYS_NFSSERVCTL, unix.SYS_MOVE_PAGES, unix.SYS_MIGRATE_PAGES,
	}
}

// allowedFamilies are the socket families a program may open: no AF_VSOCK,
// which no network namespace holds back, no raw packets.
func allowedFamilies() []uint32 {
	return []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}
}

// Offsets in struct seccomp_data on a little-endian machine.
const (
	offNumber = 0
	offArch   = 4
	offArg0   = 16
	offArg1   = 24

	x32Bit = 0x40000000
)

const (
	retAllow = 0x7fff0000
	retErrno = 0x00050000
)

// seccompFilter builds the BPF program.
func seccompFilter() []byte {
	ld := func(off uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
	}
	ret := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	jump := func(op uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	p := []unix.SockFilter{
		ld(offArch),
		jump(unix.BPF_JEQ, nativeArch, 1, 0),
		ret(retErrno | uint32(unix.ENOSYS)), // another architecture's call numbers
		ld(offNumber),
	}
	if x32Possible {
		p = append(p, jump(unix.BPF_JGE, x32Bit, 0, 1), ret(retErrno|uint32(unix.ENOSYS)))
	}
	for _, nr := range deniedCalls() {
		p = append(p, jump(unix.BPF_JEQ, nr, 0, 1), ret(retErrno|uint32(unix.EPERM)))
	}
	// clone3 hides its flags from a filter: without it the C library uses clone.
	p = append(p, jump(unix.BPF_JEQ, unix.SYS_CLONE3, 0, 1), ret(retErrno|uint32(unix.ENOSYS)))
	p = append(p,
		jump(unix.BPF_JEQ, unix.SYS_CLONE, 0, 4),
		ld(offArg0),
		jump(unix.BPF_JSET, unix.CLONE_NEWUSER, 0, 1),
		ret(retErrno|uint32(unix.EPERM)),
		ret(retAllow),
	)
	// Characters pushed into a terminal are read by whoever reads it next.
	p = append(p,
		jump(unix.BPF_JEQ, unix.SYS_IOCTL, 0, 5),
		ld(offArg1),
		jump(unix.BPF_JEQ, unix.TIOCSTI, 1, 0),
		jump(unix.BPF_JEQ, unix.TIOCLINUX, 0, 1),
		ret(retErrno|uint32(unix.EPERM)),
		ret(retAllow),
	)
	families := allowedFamilies()
	p = append(p, jump(unix.BPF_JEQ, unix.SYS_SOCKET, 0, uint8(len(families)+2)), ld(offArg0))
	for i, f := range families {
		p = append(p, jump(unix.BPF_JEQ, f, uint8(len(families)-i), 0))
	}
	p = append(p, ret(retErrno|uint32(unix.EAFNOSUPPORT)), ret(retAllow))
	var b []byte
	for _, i := range p {
		b = binary.LittleEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.LittleEndian.AppendUint32(b, i.K)
	}
	return b
}

// memory makes a file without a name that holds b, for a child to read.
func memory(name string, b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(b); err != nil {
		f.Close()
		return nil, fmt.Errorf("write memory file: %w", err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("rewind memory file: %w", err)
	}
	return f, nil
}
