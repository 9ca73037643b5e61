package node

import (
	"context"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge"
	"github.com/perigee-cloud/perigee/edge/image"
	"github.com/perigee-cloud/perigee/edge/local"
)

// runDir is where the sessions' folders lie; unix sockets in it keep it short.
func runDir(cfg Config) local.Run { return local.Run(cfg.Data + "/run") }

// starter runs this program again as the processes that outlive the daemon.
func starter(cfg Config, id *edge.Identity, relay string) edge.Starter {
	level := []string{"--log-level", cfg.LogLevel}
	return edge.SelfStarter(cfg.Program, map[edge.Role][]string{
		edge.RoleShim:   append(imageFlags(cfg), level...),
		edge.RoleStream: append([]string{"--ports", cfg.MediaPorts}, level...),
		edge.RoleRelay: append(append([]string{
			"--listen", relay, "--run", string(runDir(cfg)), "--secret", id.RelaySecretFile(),
		}, cfg.RelayTLS.flags()...), level...),
	})
}

// noContainers as the socket of containerd says that the node is to run none.
const noContainers = "none"

// imageFlags hand the node's settings of images to its shims.
func imageFlags(cfg Config) []string {
	i := cfg.Images
	return []string{
		"--containerd", i.Socket, "--registry-credentials", i.Credentials, "--image-locks", i.Locks,
		"--image-cache-mib", strconv.Itoa(i.MaxMiB), "--disk-spare-mib", strconv.Itoa(i.SpareMiB),
	}
}

// marks gives the node's labels: the operator's, and what it can run.
func marks(ctx context.Context, cfg Config) (map[string]string, error) {
	labels, err := cfg.labels()
	if err != nil {
		return nil, err
	}
	if labels == nil {
		labels = map[string]string{}
	}
	mark := func(label string) {
		k, v, _ := strings.Cut(label, "=")
		labels[k] = v
	}
	mark(api.LabelWarm)
	if cfg.Images.Socket == noContainers {
		return labels, nil
	}
	if os.Geteuid() != 0 {
		cfg.Log.Info("the node runs no containers: its daemon is not root")
		return labels, nil
	}
	store, err := image.Open(ctx, cfg.Images)
	if api.CodeOf(err) == api.CodeInvalid {
		return nil, err
	}
	if err != nil {
		cfg.Log.Info("the node runs no containers", "error", err)
		return labels, nil
	}
	mark(api.LabelContainers)
	return labels, store.Close()
}

// natsURLs puts the host that the node joined by where the scheduler named none
// (it listens on all its addresses).
func natsURLs(urls []string, base string) []string {
	return each(urls, func(s string) string {
		u, err := url.Parse(s)
		if err != nil {
			return s
		}
		u.Host = withHost(u.Host, base)
		return u.String()
	})
}

// stunServers does the same for "host:port".
func stunServers(list []string, base string) []string {
	return each(list, func(s string) string { return withHost(s, base) })
}

// withHost gives "host:port" with the host of a URL in place of an unspecified one.
func withHost(at, base string) string {
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return at
	}
	scheduler, err := url.Parse(base)
	if ip := net.ParseIP(host); err != nil || host != "" && (ip == nil || !ip.IsUnspecified()) {
		return at
	}
	return net.JoinHostPort(scheduler.Hostname(), port)
}

func each(list []string, f func(string) string) []string {
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, f(s))
	}
	return out
}
