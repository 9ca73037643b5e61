package client

import (
	"crypto/x509"
	"fmt"
	"os"

	"github.com/perigee-cloud/perigee/api"
)

// Roots gives the authorities that servers are checked against: the system's
// and those of a PEM file. Nil, which is the system's, without a file.
func Roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read authorities (--ca): %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a system without any
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, api.Invalidf("--ca", "%s holds no certificate in PEM form", file)
	}
	return pool, nil
}
