package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"github.com/perigee-cloud/perigee/api"
)

// writeMMDB writes a City-schema database that places networks.
func writeMMDB(t *testing.T, path string, places map[string][2]float64) {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "GeoLite2-City", RecordSize: 24, IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	for network, at := range places {
		_, n, err := net.ParseCIDR(network)
		if err != nil {
			t.Fatal(err)
		}
		err = tree.Insert(n, mmdbtype.Map{"location": mmdbtype.Map{
			"latitude": mmdbtype.Float64(at[0]), "longitude": mmdbtype.Float64(at[1]), "accuracy_radius": mmdbtype.Uint16(20),
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), "mmdb")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.WriteTo(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		t.Fatal(err)
	}
}

// Clients are placed by their address behind a trusted proxy; the nearest node
// with room wins, and a changed database is read again.
func TestNearestNodeWins(t *testing.T) {
	mmdb := filepath.Join(t.TempDir(), "city.mmdb")
	writeMMDB(t, mmdb, map[string][2]float64{"203.0.113.0/24": {48.86, 2.35}, "198.51.100.0/24": {40.71, -74.01}})
	w := newWorld(t, "--mmdb", mmdb, "--trusted-proxy", "127.0.0.1")
	for name, at := range map[string]string{"frankfurt": "50.11,8.68", "virginia": "38.95,-77.45"} {
		if _, err := w.AddEdge(t.Context(), name, "--region", name, "--location", at, "--cpu-capacity", "120000"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.CLI(t.Context(), "node", "drain", "edge"); err != nil { // its place is unknown
		t.Fatal(err)
	}
	place := func(address string, more ...string) string {
		t.Helper()
		body := `{"app":"xterm","joinable":true,"screen":{"width":1280,"height":720,"fps":30}` + strings.Join(more, "") + `}`
		status, text := w.send(t, "POST", "/1.0/sessions", body, "X-Forwarded-For", address)
		if status != 201 {
			t.Fatalf("HTTP %d: %s", status, text)
		}
		_, rest, _ := strings.Cut(text, `"region":"`)
		region, _, _ := strings.Cut(rest, `"`)
		_, rest, _ = strings.Cut(text, `"id":"`)
		id, _, _ := strings.Cut(rest, `"`)
		t.Cleanup(func() {
			if err := w.end(api.SessionID(id)); err != nil {
				t.Error(err)
			}
		})
		return region
	}
	if got := place("203.0.113.9"); got != "frankfurt" {
		t.Errorf("a Parisian is sent to %s", got)
	}
	if got := place("203.0.113.10"); got != "virginia" {
		t.Errorf("with Frankfurt full, a Parisian is sent to %s", got)
	}
	sessions, _, err := w.client.Sessions(t.Context(), api.SessionQuery{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sessions {
		if err := w.end(s.ID); err != nil {
			t.Fatal(err)
		}
	}
	// An integrator's backend says where its user is.
	if got := place("203.0.113.9", `,"perigee":{"client_address":"198.51.100.7"}`); got != "virginia" {
		why, _ := w.CLI(t.Context(), "session", "explain", string(newest(t, w)))
		t.Errorf("a New Yorker behind a Parisian backend is sent to %s:\n%s", got, why)
	}
	if err := w.end(newest(t, w)); err != nil {
		t.Fatal(err)
	}
	writeMMDB(t, mmdb, map[string][2]float64{"203.0.113.0/24": {40.71, -74.01}})
	eventually(t, 10*time.Second, func() error {
		status, text := w.send(t, "POST", "/1.0/sessions", `{"app":"xterm","joinable":true,"screen":{"width":640,"height":360,"fps":30}}`, "X-Forwarded-For", "203.0.113.9")
		if status != 201 {
			t.Fatalf("HTTP %d: %s", status, text)
		}
		defer func() {
			if err := w.end(newest(t, w)); err != nil {
				t.Error(err)
			}
		}()
		if !strings.Contains(text, `"region":"virginia"`) {
			return os.ErrNotExist
		}
		return nil
	})
}

func newest(t *testing.T, w *world) api.SessionID {
	t.Helper()
	list, _, err := w.client.Sessions(t.Context(), api.SessionQuery{SortBy: "created_at", SortOrder: "desc", Limit: 1})
	if err != nil || len(list) != 1 {
		t.Fatalf("newest session: %v, %v", list, err)
	}
	return list[0].ID
}
