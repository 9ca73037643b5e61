package manifest

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/perigee-cloud/perigee/api"
)

// check holds a node against the type it is to be read into.
func check(n *yaml.Node, t reflect.Type, path string, depth int) error {
	if depth > maxDepth {
		return at(n, path, "is nested too deep")
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return at(n, path, "anchors and aliases are not read: write the value out")
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" && t.Kind() != reflect.Struct {
		return at(n, path, "is empty: give a value or leave the field out")
	}
	switch t.Kind() {
	case reflect.Struct:
		return checkStruct(n, t, path, depth)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return at(n, path, "must be a list, like [a, b]")
		}
		for i, c := range n.Content {
			if err := check(c, t.Elem(), fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
				return err
			}
		}
	case reflect.Map:
		return checkMap(n, t, path, depth)
	case reflect.Bool:
		if n.Tag != "!!bool" {
			return at(n, path, "must be true or false, got %q", n.Value)
		}
	case reflect.Int, reflect.Float64:
		return checkNumber(n, t.Kind(), path)
	default: // string
		if n.Kind != yaml.ScalarNode {
			return at(n, path, "must be text")
		}
		if n.Tag != "!!str" && n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) == 0 {
			return at(n, path, "must be text: write %q in quotes", n.Value)
		}
	}
	return nil
}

func checkStruct(n *yaml.Node, t reflect.Type, path string, depth int) error {
	if n.Kind != yaml.MappingNode {
		if path == "" {
			return at(n, "", "an application must be fields and values, like name: xterm")
		}
		return at(n, path, "must be fields and values; it has %s", strings.Join(fieldsOf(t), ", "))
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if first, twice := seen[key.Value]; twice {
			return at(key, path, "%q stands here and in line %d: keep one", key.Value, first)
		}
		seen[key.Value] = key.Line
		if path == "" && key.Value == "extra_data" { // any JSON
			if err := noAlias(value, 0); err != nil {
				return err
			}
			continue
		}
		f, ok := fieldOf(t, key.Value)
		if !ok {
			return unknown(key, t, path)
		}
		if err := check(value, f, join(path, key.Value), depth+1); err != nil {
			return err
		}
	}
	return nil
}

func noAlias(n *yaml.Node, depth int) error {
	if n.Kind == yaml.AliasNode || n.Anchor != "" || depth > maxDepth {
		return at(n, "extra_data", "must be plain JSON values, nested %d deep at most", maxDepth)
	}
	for _, c := range n.Content {
		if err := noAlias(c, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func checkMap(n *yaml.Node, t reflect.Type, path string, depth int) error {
	if n.Kind != yaml.MappingNode {
		return at(n, path, "must be names and values, like {LANG: C.UTF-8}")
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if first, twice := seen[key.Value]; twice {
			return at(key, path, "%q stands here and in line %d: keep one", key.Value, first)
		}
		seen[key.Value] = key.Line
		if err := check(n.Content[i+1], t.Elem(), join(path, key.Value), depth+1); err != nil {
			return err
		}
	}
	return nil
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// fieldOf finds the type of a field by its name in a manifest.
func fieldOf(t reflect.Type, name string) (reflect.Type, bool) {
	for f := range t.Fields() {
		if tag, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); tag == name && tag != "-" {
			return f.Type, true
		}
	}
	return nil, false
}

// fieldsOf lists the names of a type's fields in a manifest.
func fieldsOf(t reflect.Type) []string {
	var out []string
	for f := range t.Fields() {
		tag, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if tag == "-" && f.Type == reflect.TypeFor[json.RawMessage]() {
			tag, _, _ = strings.Cut(f.Tag.Get("json"), ",")
		}
		if tag != "-" {
			out = append(out, tag)
		}
	}
	return out
}

func unknown(key *yaml.Node, t reflect.Type, path string) error {
	names := fieldsOf(t)
	best, least := "", 3 // more changes than two are another word
	for _, name := range names {
		if d := distance(strings.ToLower(key.Value), name); d < least {
			best, least = name, d
		}
	}
	remedy := "it has " + strings.Join(slices.DeleteFunc(names, func(s string) bool { return s == "version" && path == "" }), ", ")
	if best != "" {
		remedy = fmt.Sprintf("do you mean %q?", best)
	}
	where := ""
	if path != "" {
		where = path + ": "
	}
	return api.Errorf(api.CodeInvalid, "line %d: %sthere is no field %q; %s", key.Line, where, key.Value, remedy)
}

// distance is the number of letters to change, add or drop (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := last
			if a[i] != b[j] {
				d++
			}
			last = row[j+1]
			row[j+1] = min(d, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

func checkNumber(n *yaml.Node, k reflect.Kind, path string) error {
	switch {
	case n.Kind != yaml.ScalarNode:
		return at(n, path, "must be a number")
	case k == reflect.Int && n.Tag == "!!int":
		if _, err := strconv.ParseInt(n.Value, 0, 64); err != nil {
			return at(n, path, "%q is too large, or not a plain number", n.Value)
		}
		return nil
	case k == reflect.Float64 && (n.Tag == "!!int" || n.Tag == "!!float"):
		return nil
	}
	if fix, unit, ok := inUnit(path, n.Value); ok {
		return at(n, path, "%q: the field counts %s: write %d", n.Value, unit, fix)
	}
	return at(n, path, "must be a whole number, got %q", n.Value)
}

var quantity = regexp.MustCompile(`^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$`)

// inUnit works out what a value with a unit is in the field's own.
func inUnit(path, text string) (n int64, unit string, ok bool) {
	m := quantity.FindStringSubmatch(text)
	if m == nil {
		return 0, "", false
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, "", false
	}
	var units map[string]float64
	switch {
	case strings.HasSuffix(path, "_mib"):
		unit = "MiB"
		units = map[string]float64{
			"k": 1. / 1024, "kib": 1. / 1024, "kb": 1e3 / (1 << 20), "m": 1, "mib": 1, "mb": 1e6 / (1 << 20), "b": 1. / (1 << 20),
			"g": 1024, "gib": 1024, "gb": 1e9 / (1 << 20), "t": 1 << 20, "tib": 1 << 20, "tb": 1e12 / (1 << 20),
		}
	case strings.HasSuffix(path, "_millis"):
		unit, units = "thousandths of a core", map[string]float64{"": 1000, "m": 1, "core": 1000, "cores": 1000, "cpu": 1000, "cpus": 1000}
	case strings.HasSuffix(path, "_ms"):
		unit, units = "milliseconds", map[string]float64{"ms": 1, "s": 1000}
	case strings.HasSuffix(path, "_s"):
		unit, units = "seconds", map[string]float64{"ms": 1e-3, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
	case strings.HasSuffix(path, "minutes"):
		unit, units = "minutes", map[string]float64{"s": 1. / 60, "m": 1, "min": 1, "h": 60, "d": 1440}
	}
	f, known := units[strings.ToLower(m[2])]
	if !known || v*f >= math.MaxInt32 {
		return 0, "", false
	}
	return int64(math.Ceil(v * f)), unit, true
}
