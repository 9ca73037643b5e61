// Command build bundles the TypeScript of api/web/src into api/web/dist. Run
// it in the repository's root (go run ./api/web/build) or by go generate.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	root := "."
	if _, err := os.Stat(filepath.Join(root, "src", "player")); err != nil {
		root = filepath.Join("api", "web")
	}
	if err := write(root); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

// write replaces what dist holds by a fresh bundle.
func write(root string) error {
	files, err := bundle(root)
	if err != nil {
		return err
	}
	dist := filepath.Join(root, "dist")
	if err := os.RemoveAll(dist); err != nil {
		return fmt.Errorf("empty dist: %w", err)
	}
	if err := os.MkdirAll(dist, 0o755); err != nil {
		return fmt.Errorf("make dist: %w", err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dist, name), content, 0o644); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}
