package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/evanw/esbuild/pkg/api"
)

// outputs are the bundles: the player, and the SDK as a module and as a plain
// script that defines the global Perigee.
var outputs = []struct {
	name, entry, global string
	format              api.Format
}{
	{"player.js", "src/player/main.ts", "", api.FormatESModule},
	{"perigee-sdk.js", "src/sdk/index.ts", "", api.FormatESModule},
	{"perigee-sdk.iife.js", "src/sdk/index.ts", "Perigee", api.FormatIIFE},
	{"player.css", "src/player/player.css", "", api.FormatDefault},
}

// bundle builds every file of dist from root/src: name to content.
func bundle(root string) (map[string][]byte, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", root, err)
	}
	files := map[string][]byte{}
	for _, o := range outputs {
		r := api.Build(api.BuildOptions{
			AbsWorkingDir:     abs,
			EntryPoints:       []string{o.entry},
			Bundle:            true,
			Format:            o.format,
			GlobalName:        o.global,
			Target:            api.ES2022,
			Platform:          api.PlatformBrowser,
			Charset:           api.CharsetUTF8,
			MinifyWhitespace:  true,
			MinifySyntax:      true,
			MinifyIdentifiers: true,
			LegalComments:     api.LegalCommentsNone,
			LogLevel:          api.LogLevelSilent,
		})
		if len(r.Errors) > 0 {
			return nil, bundleError(o.name, r.Errors)
		}
		files[o.name] = r.OutputFiles[0].Contents
	}
	if files["icon.svg"], err = os.ReadFile(filepath.Join(abs, "src", "player", "icon.svg")); err != nil {
		return nil, fmt.Errorf("read the icon: %w", err)
	}
	page, err := os.ReadFile(filepath.Join(abs, "src", "player", "index.html"))
	if err != nil {
		return nil, fmt.Errorf("read the page: %w", err)
	}
	for name, content := range files {
		page = bytes.ReplaceAll(page, []byte("{{"+name+"}}"), []byte(hash(content)))
	}
	if i := bytes.Index(page, []byte("{{")); i >= 0 {
		return nil, fmt.Errorf("index.html names a file that is not built: %.40s", page[i:])
	}
	files["index.html"] = page
	return files, nil
}

func bundleError(name string, found []api.Message) error {
	errs := []error{fmt.Errorf("bundle %s", name)}
	for _, m := range found {
		if m.Location == nil {
			errs = append(errs, errors.New(m.Text))
			continue
		}
		errs = append(errs, fmt.Errorf("%s:%d:%d: %s", m.Location.File, m.Location.Line, m.Location.Column, m.Text))
	}
	return errors.Join(errs...)
}

// hash names a file's content in ?v=. It is written again here because the
// generator must run when dist is missing and package web does not compile.
func hash(content []byte) string {
	sum := sha256.Sum256(content)
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}
