package instance

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
)

// Addresses of the test's own internet: TEST-NET-2 (RFC 5737), a private one
// and the metadata address, all in a namespace behind a pair of interfaces.
const (
	worldHost = "198.51.100.1"
	world     = "198.51.100.7"
	private   = "10.213.7.7"
	metadata  = "169.254.169.254"
)

// newWorld makes a network namespace with servers that say hello at each
// address, and the host's way to it.
func newWorld(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: no network of its own")
	}
	for _, tool := range []string{"nft", "slirp4netns"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing: run deploy/install.sh", tool)
		}
	}
	ns, err := newNamespace()
	if err != nil {
		t.Skipf("no network namespaces here: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	link := fmt.Sprintf("pgt%d", os.Getpid()%100000)
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	ip("link", "add", link, "type", "veth", "peer", "name", "w0", "netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()))
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", link).Run() })
	ip("addr", "add", worldHost+"/24", "dev", link)
	ip("link", "set", link, "up")
	for _, a := range []string{private, metadata} {
		ip("route", "add", a+"/32", "via", world, "dev", link, "onlink")
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- func() error {
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			for _, args := range [][]string{
				{"addr", "add", world + "/24", "dev", "w0"}, {"addr", "add", private + "/32", "dev", "w0"},
				{"addr", "add", metadata + "/32", "dev", "w0"}, {"link", "set", "w0", "up"}, {"link", "set", "lo", "up"},
			} {
				if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
					return fmt.Errorf("ip %v: %w: %s", args, err, out)
				}
			}
			return nil
		}()
		for _, a := range []string{world, private, metadata} {
			l, err := net.Listen("tcp4", net.JoinHostPort(a, "80"))
			done <- err
			if err == nil {
				t.Cleanup(func() { l.Close() })
				go hello(l)
			}
		}
	}()
	for range 4 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range []string{world, private, metadata} { // the host reaches them all
		c, err := net.Dial("tcp4", net.JoinHostPort(a, "80"))
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

func hello(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "hello\n")
		c.Close()
	}
}

func TestEgressReachesTheWorldAndNothingNear(t *testing.T) {
	t.Parallel()
	newWorld(t)
	host, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	go hello(host)
	port := fmt.Sprint(host.Addr().(*net.TCPAddr).Port)
	script := `
try() { if [ "$(perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new(PeerAddr=>"$ARGV[0]",PeerPort=>$ARGV[1],Timeout=>2) or exit 1; print <$s>' $2 $3 2>/dev/null)" = hello ]; then echo $1=yes; else echo $1=no; fi; }
try world ` + world + ` 80
try private ` + private + ` 80
try metadata ` + metadata + ` 80
try loopback 127.0.0.1 ` + port + `
try gateway 10.0.2.2 ` + port + `
try host_address ` + worldHost + ` ` + port + `
nft flush ruleset 2>/dev/null && echo flushed=yes
ip link del tap0 2>/dev/null && echo unlinked=yes
echo resolver=$(cat /etc/resolv.conf)
echo abstract=$(grep -c @ /proc/net/unix)
`
	got := asks(t, api.App{Permissions: api.Permissions{Network: api.NetworkEgress}}, script)
	want := map[string]string{"world": "yes", "private": "no", "metadata": "no", "loopback": "no", "gateway": "no", "host_address": "no",
		"flushed": "", "unlinked": "", "resolver": "nameserver " + egressDNS, "abstract": "0"}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %q, want %q", k, got[k], v)
		}
	}
	// Without the network nothing is reached, with the host's everything.
	if got := asks(t, api.App{}, script); got["world"] != "no" || got["host_address"] != "no" {
		t.Errorf("without a network: %v", got)
	}
	if got := asks(t, api.App{Permissions: api.Permissions{Network: api.NetworkFull}}, script); got["world"] != "yes" || got["private"] != "yes" || got["loopback"] != "yes" {
		t.Errorf("with the host's network: %v", got)
	}
}

func TestEgressFails(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("not root: it is refused in any case")
	}
	egress := api.App{Command: []string{"true"}, Permissions: api.Permissions{Network: api.NetworkEgress}}
	for _, c := range []struct{ tool, script, want, start string }{
		{"nft", "echo no such table >&2; exit 1", "set network rules: exit status 1: no such table", "10s"},
		{"slirp4netns", "echo no tap >&2; exit 1", "the network did not start: no tap", "10s"},
		{"slirp4netns", "exec sleep 60", "not up within 700ms", "700ms"},
	} {
		_, st := run(t, egress, fake(t, c.tool, c.script), "TEST_START="+c.start)
		if st.Reason != api.ReasonStartFailed || !strings.Contains(st.Message, c.want) {
			t.Errorf("%s: %+v", c.tool, st)
		}
	}
}
