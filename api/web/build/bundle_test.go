package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// limit keeps dist small enough to be committed and to load at once: three bundles
// that each hold the SDK, 80 KB for the player at most.
const limit = 220 << 10

func TestDistIsFresh(t *testing.T) {
	files, err := bundle("..")
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	for name, want := range files {
		size += len(want)
		got, err := os.ReadFile(filepath.Join("..", "dist", name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("dist/%s is not what src gives (%v): run go generate ./api/web", name, err)
		}
	}
	if size > limit {
		t.Errorf("dist has %d bytes, over %d", size, limit)
	}
	entries, err := os.ReadDir(filepath.Join("..", "dist"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if files[e.Name()] == nil {
			t.Errorf("dist/%s is left from before: run go generate ./api/web", e.Name())
		}
	}
}

func TestFaultsAreNamed(t *testing.T) {
	for want, change := range map[string][2]string{
		"src/sdk/keys.ts:1:": {"src/sdk/keys.ts", "export const keyNumber = ;\n"},
		"{{no.js}}":          {"src/player/index.html", `<script src="/static/no.js?v={{no.js}}"></script>`},
		"read the icon":      {"src/player/icon.svg", ""},
	} {
		root := t.TempDir()
		if err := os.CopyFS(root, os.DirFS("..")); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(root, change[0])
		err := os.WriteFile(path, []byte(change[1]), 0o644)
		if change[1] == "" {
			err = os.Remove(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bundle(root); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
}

func TestWriteReplacesWhatWasThere(t *testing.T) {
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS("..")); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(root, "dist", "old.js")
	if err := os.WriteFile(old, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := write(root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("the old file is still there: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "dist", "player.js")); err != nil || len(b) < 1000 {
		t.Errorf("player.js has %d bytes, %v", len(b), err)
	}
}
