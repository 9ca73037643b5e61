package edge

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

func open(t *testing.T, dir string) *Identity {
	t.Helper()
	id, err := OpenIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { id.Close() })
	return id
}

func TestIdentityLasts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	a := open(t, dir)
	if _, err := OpenIdentity(dir); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("a second daemon on the directory got %v", err)
	}
	a.Close()
	b := open(t, dir)
	if a.ID != b.ID || !bytes.Equal(a.RelaySecret, b.RelaySecret) {
		t.Error("identity changed with a restart")
	}
	if a.Boot == b.Boot {
		t.Error("boot id did not change with a restart")
	}
	if len(a.RelaySecret) != 32 || a.ID != api.NodeIDFromKey(a.Public()) {
		t.Errorf("identity is %+v", a)
	}
	for _, f := range []string{fileKey, fileRelay} {
		st, err := os.Stat(filepath.Join(dir, f))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v)", f, st.Mode(), err)
		}
	}
	if c := open(t, t.TempDir()); c.ID == a.ID {
		t.Error("two nodes have one id")
	}
}

func TestJoinIsSigned(t *testing.T) {
	id := open(t, t.TempDir())
	j := id.Join(api.Node{Name: "a", Region: "eu"}, "token")
	if j.Node.ID != id.ID || j.Node.Boot != id.Boot || j.Token != "token" || j.Node.Name != "a" || !bytes.Equal(j.RelaySecret, id.RelaySecret) {
		t.Errorf("join is %+v", j)
	}
	if !ed25519.Verify(j.Node.PublicKey, api.JoinPayload(j.Node), j.Signature) {
		t.Error("signature does not fit")
	}
}

func TestBadKeysAreNamed(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"short":    {"abc", 0o600, "3 bytes instead of 32"},
		"readable": {strings.Repeat("x", 32), 0o644, "chmod 600"},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, fileKey)
		if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenIdentity(dir); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v", name, err)
		}
		if b, _ := os.ReadFile(path); string(b) != c.text {
			t.Errorf("%s: the key was changed", name)
		}
		// The lock was given up.
		os.Remove(path)
		open(t, dir)
	}
}

func TestBadConfiguration(t *testing.T) {
	id := open(t, t.TempDir())
	good := Config{Identity: id, Run: "/tmp/x", Bus: &fakeBus{}, Start: fakes, Log: slog.New(slog.DiscardHandler)}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"identity":      func(c *Config) { c.Identity = nil },
		"run directory": func(c *Config) { c.Run = "" },
		"shorter":       func(c *Config) { c.Run = local.Run("/" + strings.Repeat("long/", 20)) },
		"bus":           func(c *Config) { c.Bus = nil },
		"starter":       func(c *Config) { c.Start = nil },
		"log":           func(c *Config) { c.Log = nil },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without %s: got %v", want, err)
		}
	}
}
