// Package manifest reads and writes applications as operators write them: YAML,
// checked strictly. A misspelt limit, a wrong unit or an impossible size is an
// error that names the line and what to write instead.
package manifest

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/perigee-cloud/perigee/api"
)

// Schema is the manifest's JSON Schema (draft 2020-12), for editors.
//
//go:embed schema.json
var Schema string

// Bounds of what Read takes.
const (
	MaxBytes     = 1 << 20
	maxDocuments = 256
	maxDepth     = 32
)

// Read reads the applications of a manifest, one a document, normalized. Its
// errors are *api.Error with the code invalid; their text begins with the line.
func Read(r io.Reader) ([]api.App, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if len(text) > MaxBytes {
		return nil, api.Errorf(api.CodeTooLarge, "the manifest is over %d bytes", MaxBytes)
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var out []api.App
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, api.Errorf(api.CodeInvalid, "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		}
		a, err := one(&doc)
		if err != nil {
			return nil, err
		}
		if len(out) == maxDocuments {
			return nil, api.Errorf(api.CodeInvalid, "the manifest has over %d documents: split it", maxDocuments)
		}
		out = append(out, a)
	}
	if len(out) == 0 {
		return nil, api.Errorf(api.CodeInvalid, "the manifest is empty: it needs at least a name and a command")
	}
	return out, nil
}

// one reads the application of one document.
func one(doc *yaml.Node) (api.App, error) {
	var a api.App
	root := doc
	if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
		root = doc.Content[0]
	}
	if err := check(root, reflect.TypeFor[api.App](), "", 0); err != nil {
		return a, err
	}
	if err := root.Decode(&a); err != nil { // check has let nothing through that does this
		return a, api.Errorf(api.CodeInvalid, "%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if n := find(root, "extra_data"); n != nil {
		var v any
		err := n.Decode(&v)
		if err == nil {
			a.ExtraData, err = json.Marshal(v)
		}
		if err != nil {
			return a, at(n, "extra_data", "cannot be written as JSON: %v", err)
		}
	}
	given := a.Version
	a, err := a.Normalize()
	var e *api.Error
	if errors.As(err, &e) && e.Code == api.CodeInvalid {
		return a, located(root, e)
	}
	if err == nil && given != 0 {
		return a, at(find(root, "version"), "version", "is given by the catalogue: leave it out")
	}
	return a, err
}

// located puts the line of the offending field before an error's text.
func located(root *yaml.Node, e *api.Error) *api.Error {
	field := e.Field
	if field == "app" { // as a session's request names it
		field = "name"
	}
	line := root.Line
	for path := field; path != ""; {
		if n := find(root, path); n != nil {
			line = n.Line
			break
		}
		i := strings.LastIndexByte(path, '.')
		path = path[:max(i, 0)]
	}
	c := *e
	c.Field, c.Message = field, fmt.Sprintf("line %d: %s: %s", line, field, e.Message)
	return &api.Error{Code: c.Code, Message: c.Message}
}

// find gives the value at a path of keys, nil when it is not there.
func find(n *yaml.Node, path string) *yaml.Node {
	for key := range strings.SplitSeq(path, ".") {
		if n = under(n, key); n == nil {
			return nil
		}
	}
	return n
}

func under(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// at makes the error of a place.
func at(n *yaml.Node, path, format string, args ...any) *api.Error {
	text := fmt.Sprintf(format, args...)
	if path != "" {
		text = path + ": " + text
	}
	return api.Errorf(api.CodeInvalid, "line %d: %s", n.Line, text)
}

// Write writes an application as a manifest that Read takes: what is as by
// default is left out, and the version, which the catalogue gives.
func Write(a api.App) ([]byte, error) {
	a.Version = 0
	b, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	// JSON is YAML: its nodes keep the order of the fields and lose the style.
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	root := doc.Content[0]
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == "version" {
			root.Content = append(root.Content[:i], root.Content[i+2:]...)
			break
		}
	}
	plain(root, 0)
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(root), enc.Close()); err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	return out.Bytes(), nil
}

func plain(n *yaml.Node, depth int) {
	n.Style = 0
	if n.Kind == yaml.SequenceNode && depth > 0 {
		n.Style = yaml.FlowStyle
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		n.Style = 0
		n.SetString(n.Value)
	}
	for _, c := range n.Content {
		plain(c, depth+1)
	}
}
