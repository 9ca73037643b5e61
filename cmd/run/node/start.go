package node

import (
	"net"
	"net/url"
	"strings"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge"
	"github.com/perigee-cloud/perigee/edge/local"
)

// runDir is where the sessions' folders lie; unix sockets in it keep it short.
func runDir(cfg Config) local.Run { return local.Run(cfg.Data + "/run") }

// starter runs this program again as the processes that outlive the daemon.
func starter(cfg Config, id *edge.Identity, n api.Node, relay string) edge.Starter {
	level := []string{"--log-level", cfg.LogLevel}
	addresses := strings.Join(n.Addresses, ",")
	return edge.SelfStarter(cfg.Program, map[edge.Role][]string{
		edge.RoleShim:   level,
		edge.RoleStream: append([]string{"--ports", cfg.MediaPorts, "--advertise", addresses}, level...),
		edge.RoleRelay: append([]string{
			"--listen", relay, "--advertise", addresses, "--run", string(runDir(cfg)), "--secret", id.RelaySecretFile(),
		}, level...),
	})
}

// natsURLs puts the host that the node joined by where the scheduler named none
// (it listens on all its addresses).
func natsURLs(urls []string, base string) []string {
	scheduler, err := url.Parse(base)
	if err != nil {
		return urls
	}
	out := make([]string, 0, len(urls))
	for _, s := range urls {
		u, err := url.Parse(s)
		if err == nil {
			if ip := net.ParseIP(u.Hostname()); u.Hostname() == "" || ip != nil && ip.IsUnspecified() {
				u.Host = net.JoinHostPort(scheduler.Hostname(), u.Port())
				s = u.String()
			}
		}
		out = append(out, s)
	}
	return out
}
