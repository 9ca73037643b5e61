package control

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/bus"
	"github.com/perigee-cloud/perigee/api/client"
)

func TestAPIAndBusByTLS(t *testing.T) {
	dir := t.TempDir()
	f := issue(t, dir)
	cfg := testConfig(t)
	cfg.APICert, cfg.APIKey = f.cert, f.key
	var rt Runtime
	select {
	case rt = <-run(t, cfg):
	case <-time.After(20 * time.Second):
		t.Fatal("the scheduler does not come up")
	}
	if !strings.HasPrefix(rt.API, "https://") || !strings.HasPrefix(rt.NATS, "tls://") {
		t.Fatalf("it is reached at %s and %s", rt.API, rt.NATS)
	}
	admin, err := client.New(client.Config{Socket: rt.Socket})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	ask := func(ca string) error {
		c, err := client.New(client.Config{URL: rt.API, CA: ca})
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Status(t.Context())
		return err
	}
	if err := ask(f.ca); err != nil {
		t.Errorf("by its authority: %v", err)
	}
	if err := ask(""); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("by the system's authorities: %v", err)
	}
	joined, key := joinOver(t, admin, rt.API, f.ca)
	roots, err := client.Roots(f.ca)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := bus.Dial(ctx, bus.Config{URLs: joined.NATS, Seed: key.Seed(), TLS: &tls.Config{RootCAs: roots}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Wait(ctx); err != nil {
		t.Errorf("a node does not reach the bus: %v", err)
	}
	issue(t, dir) // in place, by another authority
	poll(t, "the new certificate is shown", func() error { return ask(f.ca) })
}

// joinOver lets a node join by https and gives its key.
func joinOver(t *testing.T, admin *client.Client, base, ca string) (api.NodeJoined, ed25519.PrivateKey) {
	t.Helper()
	token, err := admin.CreateAccount(t.Context(), api.TokenSpec{Account: "edges", Rights: []api.Right{api.RightNode}})
	if err != nil {
		t.Fatal(err)
	}
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	n := api.Node{ID: api.NodeIDFromKey(public), Name: "n", PublicKey: public, Region: "eu", Boot: "b", Addresses: []string{"127.0.0.1"},
		Pools: []api.Capacity{{Pool: api.PoolCPU, Macroblocks: 1000, Codecs: api.SoftwareCodecs()}}}
	c, err := client.New(client.Config{URL: base, CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	joined, err := c.JoinNode(t.Context(), api.NodeJoin{Node: n, RelaySecret: make([]byte, 32), Signature: ed25519.Sign(key, api.JoinPayload(n)), Token: token.Token})
	if err != nil {
		t.Fatal(err)
	}
	return joined, key
}

func TestBadAPICertificates(t *testing.T) {
	dir := t.TempDir()
	f := issue(t, dir)
	empty := dir + "/empty.pem"
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ cert, key, says string }{
		"no key":        {f.cert, "", "--api-key"},
		"no cert":       {"", f.key, "--api-cert"},
		"not there":     {f.cert + "x", f.key, "no such file"},
		"empty":         {empty, f.key, "--api-cert"},
		"not its own":   {f.ca, f.key, "--api-cert and --api-key"},
		"no key at all": {f.cert, f.ca, "--api-cert and --api-key"},
	} {
		cfg := testConfig(t)
		cfg.APICert, cfg.APIKey = tt.cert, tt.key
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := Run(ctx, cfg)
		cancel()
		if err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want it to say %s", name, err, tt.says)
		}
	}
	if _, err := client.Roots(empty); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("an authority that is none: %v", err)
	}
	if _, err := client.Roots(dir + "/none.pem"); err == nil || !strings.Contains(err.Error(), "--ca") {
		t.Errorf("an authority that is not there: %v", err)
	}
}
