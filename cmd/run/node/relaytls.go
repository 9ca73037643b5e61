package node

import (
	"net"

	"github.com/perigee-cloud/perigee/api"
)

// RelayTLS is TURN over TLS of the node's relay; the zero RelayTLS is none.
type RelayTLS struct {
	Listen    string // host:port
	Host      string // of the certificate, by which viewers reach the node
	Cert, Key string // files, PEM
}

// check refuses what is only half said.
func (r RelayTLS) check() error {
	if r == (RelayTLS{}) {
		return nil
	}
	for _, f := range []struct{ flag, value string }{
		{"--relay-tls-listen", r.Listen}, {"--relay-host", r.Host}, {"--relay-cert", r.Cert}, {"--relay-key", r.Key},
	} {
		if f.value == "" {
			return api.Invalidf(f.flag, "is missing: --relay-tls-listen, --relay-host, --relay-cert and --relay-key go together")
		}
	}
	_, port, err := net.SplitHostPort(r.Listen)
	if err != nil || port == "" || port == "0" {
		return api.Invalidf("--relay-tls-listen", "%q must name a port, such as :443", r.Listen)
	}
	return nil
}

// flags hand it to the relay process.
func (r RelayTLS) flags() []string {
	if r.Listen == "" {
		return nil
	}
	return []string{"--tls-listen", r.Listen, "--cert", r.Cert, "--key", r.Key, "--host", r.Host}
}

// urls are what viewers are told, behind the others: it is the slowest way.
func (r RelayTLS) urls() []string {
	_, port, err := net.SplitHostPort(r.Listen)
	if r.Host == "" || err != nil {
		return nil
	}
	return []string{"turns:" + net.JoinHostPort(r.Host, port) + "?transport=tcp"}
}
