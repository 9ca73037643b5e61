package instance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/edge/local"
)

// Where slirp4netns answers names in its network (its manual, --cidr).
const egressDNS = "10.0.2.3"

// closedRanges4 and closedRanges6 are what an instance with egress may not
// reach: private, link-local with the metadata address, shared, multicast and
// reserved ranges (IANA special-purpose address registries, RFC 6890).
func closedRanges4() []string {
	return []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3",
	}
}

// network is an instance's own network namespace with a way to the internet
// and to nothing near the node. A process translates its packets into sockets
// of the host, so the host forwards nothing and its firewall stays as it is;
// the rules stand in the namespace, over which the sandbox has no power.
type network struct {
	ns    *os.File
	slirp *child
	out   *output
}

// newNamespace makes a network namespace without a process in it.
func newNamespace() (*os.File, error) {
	type made struct {
		f   *os.File
		err error
	}
	answer := make(chan made)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			answer <- made{err: fmt.Errorf("make network namespace: %w", err)}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		answer <- made{f, err}
	}()
	m := <-answer
	return m.f, m.err
}

// startEgress makes the namespace, its rules and its way out.
func startEgress(ctx context.Context, l *launcher, dir local.Session, g *group) (*network, error) {
	if !l.private {
		return nil, errors.New("permissions.network egress needs the node's daemon to run as root: use none or full, or another node")
	}
	nft, err := lookTool("nft", "nftables")
	if err != nil {
		return nil, err
	}
	tool, err := lookTool("slirp4netns", "slirp4netns")
	if err != nil {
		return nil, err
	}
	n := &network{}
	if n.ns, err = newNamespace(); err != nil {
		return nil, err
	}
	rules, err := egressRules()
	if err == nil {
		err = n.load(ctx, l, nft, rules)
	}
	if err == nil {
		err = n.connect(ctx, l, tool, dir, g)
	}
	if err != nil {
		return nil, errors.Join(err, n.stop())
	}
	return n, nil
}

// egressRules refuses what is near: the closed ranges and the host's own
// addresses, whose services see a connection from the host itself.
func egressRules() (string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("list the node's addresses: %w", err)
	}
	closed := closedRanges4()
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().Is4() || within(p.Addr(), closed) {
			continue
		}
		if s := p.Addr().String() + "/32"; !slices.Contains(closed, s) {
			closed = append(closed, s)
		}
	}
	return fmt.Sprintf(`table inet perigee {
	chain out {
		type filter hook output priority 0; policy drop;
		oifname "lo" accept
		ip daddr %s udp dport 53 accept
		ip daddr %s tcp dport 53 accept
		ip daddr { %s } reject
		meta nfproto ipv6 reject
		accept
	}
}
`, egressDNS, egressDNS, strings.Join(closed, ", ")), nil
}

func within(a netip.Addr, ranges []string) bool {
	return slices.ContainsFunc(ranges, func(r string) bool { return netip.MustParsePrefix(r).Contains(a) })
}

func (n *network) load(ctx context.Context, l *launcher, nft, rules string) error {
	cmd := exec.CommandContext(ctx, nft, "-f", "-")
	cmd.Stdin, cmd.Env = strings.NewReader(rules), []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	err := l.do(func() error { return inNamespace(n.ns, cmd.Start) })
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("set network rules: %w: %s", err, clip(said.String()))
	}
	return nil
}

// inNamespace runs f with the calling thread, which must be locked, in a
// network namespace.
func inNamespace(ns *os.File, f func() error) error {
	if ns == nil {
		return f()
	}
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer own.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	err = f()
	return errors.Join(err, unix.Setns(int(own.Fd()), unix.CLONE_NEWNET))
}

// connect starts the process that carries the packets and waits until it is ready.
func (n *network) connect(ctx context.Context, l *launcher, tool string, dir local.Session, g *group) error {
	out, w, err := newOutput(dir.Path("network.log"))
	if err != nil {
		return err
	}
	defer w.Close()
	n.out = out
	ready, readyW, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer ready.Close()
	cmd := exec.Command(tool, "--configure", "--mtu=1500", "--disable-host-loopback", "--enable-sandbox", "--enable-seccomp",
		"--ready-fd=3", "--netns-type=path", "/proc/self/fd/4", "tap0")
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout, cmd.Stderr = w, w
	cmd.ExtraFiles = []*os.File{readyW, n.ns}
	n.slirp, err = l.start("network", cmd, g)
	readyW.Close()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the network: %w", context.Cause(ctx))
		}
		out.settle()
		return fmt.Errorf("the network did not start: %s", clip(out.lastLine()))
	}
	return nil
}

// namespace is where the sandbox's network is; nil for none and the host's.
func (n *network) namespace() *os.File {
	if n == nil {
		return nil
	}
	return n.ns
}

func (n *network) stop() error {
	if n == nil {
		return nil
	}
	if n.slirp != nil {
		n.slirp.kill(time.Second)
	}
	if n.out != nil {
		n.out.close()
	}
	if n.ns == nil {
		return nil
	}
	if err := n.ns.Close(); err != nil {
		return fmt.Errorf("close network namespace: %w", err)
	}
	return nil
}
