package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

// An application's policy names a label, the session lands on the node that
// bears it, the command line says why, and a replay what another policy would do.
func TestPlacementIsExplainedAndReplayed(t *testing.T) {
	w := newWorld(t)
	for name, args := range map[string][]string{
		"near": {"--location", "48.86,2.35"}, "gold": {"--location", "50.11,8.68", "--label", "tier=gold"},
	} {
		if _, err := w.AddEdge(t.Context(), name, append(args, "--region", name)...); err != nil {
			t.Fatal(err)
		}
	}
	manifest := filepath.Join(t.TempDir(), "gold.yaml")
	if err := os.WriteFile(manifest, []byte("name: gold\ncommand: [xterm]\nplacement:\n  labels: {required: [tier=gold]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := w.CLI(t.Context(), "app", "put", "--file", manifest); err != nil {
		t.Fatal(out, err)
	}
	out, err := w.CLI(t.Context(), "session", "create", "--app", "gold", "--location", "48.9,2.3", "--json")
	if err != nil {
		t.Fatal(out, err)
	}
	var a api.CreateAnswer
	if err := json.Unmarshal([]byte(out), &a); err != nil {
		t.Fatal(out, err)
	}
	t.Cleanup(func() {
		if err := w.end(a.ID); err != nil {
			t.Error(err)
		}
	})
	if a.Region != "gold" {
		t.Errorf("the session runs in %s", a.Region)
	}
	out, err = w.CLI(t.Context(), "session", "explain", string(a.ID))
	if err != nil || !strings.Contains(out, "label: it does not bear the label tier=gold") || !strings.Contains(out, "distance") {
		t.Errorf("explained by\n%s%v", out, err)
	}
	if out, err = w.CLI(t.Context(), "session", "explain", string(a.ID), "--json"); err != nil {
		t.Fatal(out, err)
	}
	recorded, policy := filepath.Join(t.TempDir(), "requests.json"), filepath.Join(t.TempDir(), "policy.yaml")
	for file, text := range map[string]string{recorded: out, policy: "{}\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err = w.CLI(t.Context(), "replay", recorded, "--policy", policy); err != nil || !strings.Contains(out, "1 of 1 sessions would change") {
		t.Errorf("replayed as\n%s%v", out, err)
	}
}
