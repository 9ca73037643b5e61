package manifest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/perigee-cloud/perigee/api"
)

type object = map[string]any

func schema(t *testing.T) object {
	t.Helper()
	var s object
	if err := json.Unmarshal([]byte(Schema), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// value reads a YAML document as an editor sees it.
func value(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// fault is a validator of the parts of JSON Schema that ours uses; any other
// keyword is a fault too.
func fault(s object, v any, path string) string {
	for _, k := range []string{"anyOf"} {
		if list, ok := s[k].([]any); ok && !slices.ContainsFunc(list, func(o any) bool { return fault(o.(object), v, path) == "" }) {
			return path + ": fits none of " + fmt.Sprint(list)
		}
	}
	for k, want := range s {
		if why := keyword(k, want, s, v, path); why != "" {
			return path + ": " + why
		}
	}
	return ""
}

func keyword(k string, want any, s object, v any, path string) string {
	switch k {
	case "$schema", "title", "description", "anyOf":
		return ""
	case "items", "required", "properties", "additionalProperties":
		return inside(k, want, s, v, path)
	}
	broken, known := breaks(k, want, v)
	if !known {
		return fmt.Sprintf("unknown keyword %s %v", k, want)
	}
	if broken {
		return fmt.Sprintf("%v breaks %s %v", v, k, want)
	}
	return ""
}

// breaks holds a value against a keyword that looks at the value alone.
func breaks(k string, want, v any) (broken, known bool) {
	n, isNumber := v.(float64)
	text, isText := v.(string)
	list, isList := v.([]any)
	fields, isObject := v.(object)
	switch k {
	case "type":
		is, known := isType(want, v)
		return !is, known
	case "const":
		return v != want, true
	case "enum":
		return !slices.Contains(want.([]any), v), true
	case "pattern":
		return isText && !regexp.MustCompile(want.(string)).MatchString(text), true
	case "minimum":
		return isNumber && n < want.(float64), true
	case "maximum":
		return isNumber && n > want.(float64), true
	case "minLength":
		return isText && float64(len(text)) < want.(float64), true
	case "maxLength":
		return isText && float64(len(text)) > want.(float64), true
	case "minItems":
		return isList && float64(len(list)) < want.(float64), true
	case "maxItems":
		return isList && float64(len(list)) > want.(float64), true
	case "maxProperties":
		return isObject && float64(len(fields)) > want.(float64), true
	}
	return false, false
}

func isType(want, v any) (is, known bool) {
	switch want {
	case "object":
		_, is = v.(object)
	case "array":
		_, is = v.([]any)
	case "string":
		_, is = v.(string)
	case "boolean":
		_, is = v.(bool)
	case "number", "integer":
		n, number := v.(float64)
		is = number && (want == "number" || n == float64(int64(n)))
	default:
		return false, false
	}
	return is, true
}

// inside holds what a value is made of against its own schemas.
func inside(k string, want any, s object, v any, path string) string {
	list, _ := v.([]any)
	fields, _ := v.(object)
	switch k {
	case "items":
		for i, x := range list {
			if why := fault(want.(object), x, fmt.Sprintf("%s[%d]", path, i)); why != "" {
				return why
			}
		}
	case "required":
		for _, r := range want.([]any) {
			if _, ok := fields[r.(string)]; !ok {
				return "lacks " + r.(string)
			}
		}
	case "properties":
		for name, x := range fields {
			if p, ok := want.(object)[name]; ok {
				if why := fault(p.(object), x, join(path, name)); why != "" {
					return why
				}
			}
		}
	case "additionalProperties":
		known, _ := s["properties"].(object)
		for name, x := range fields {
			if _, ok := known[name]; ok {
				continue
			}
			if want == false {
				return "no field " + name
			}
			if why := fault(want.(object), x, join(path, name)); why != "" {
				return why
			}
		}
	}
	return ""
}

// TestSchemaHasEveryField holds the schema and the program together.
func TestSchemaHasEveryField(t *testing.T) {
	sameFields(t, schema(t), reflect.TypeFor[api.App](), "")
}

func sameFields(t *testing.T, s object, typ reflect.Type, path string) {
	t.Helper()
	props, _ := s["properties"].(object)
	names := fieldsOf(typ)
	for _, name := range names {
		p, ok := props[name].(object)
		if !ok {
			if name != "version" {
				t.Errorf("the schema lacks %s", join(path, name))
			}
			continue
		}
		f, ok := fieldOf(typ, name)
		if !ok {
			continue // extra_data: any JSON
		}
		if f.Kind() == reflect.Pointer {
			f = f.Elem()
		}
		if f.Kind() == reflect.Struct {
			sameFields(t, p, f, join(path, name))
		}
	}
	for name := range props {
		if !slices.Contains(names, name) {
			t.Errorf("the schema has %s, the program has not", join(path, name))
		}
	}
	if s["additionalProperties"] != false {
		t.Errorf("%q lets unknown fields through", path)
	}
}

// TestSchemaAgrees: what one refuses of a single field the other refuses too.
func TestSchemaAgrees(t *testing.T) {
	const head = "name: game\ncommand: [game]\n"
	texts := map[string]bool{full: true, head: true}
	for _, bad := range []string{
		"resorces: {}", "resources: {gpus: 2}", "resources: {memory_mib: 2GiB}", "resources: {cpu_millis: 1.5}", "resources: {memory_mib: 99999999}",
		"resources: {disk_mib: 3}", "resources: {encoder: cpu}", "video: {width: 9999, height: 10}", "video: {content: text}", "video: {fps: -1}",
		"permissions: {network: some}", "permissions: {camera: true}", "on_exit: {restart: On-Failure}", "on_exit: {max_restarts: 1001}",
		"hooks: {pre_start: {}}", "hooks: {pre_start: {command: [a], timeout_s: 901}}", "hooks: {during: {command: [a]}}", "env: {A: 1}", "network: maybe",
		"title: {}", "codecs: H264", "codecs: [H266]", "labels: {a: b c}", "placement: {order: random}", "placement: {min_fps: 241}", "placement: {regions: {}, extra: 1}",
		"watchdog: {hang_s: 3601}", "watchdog: {off: 1}", "idle: {minutes: 43201}", "kind: virtual", "read_only: [relative]", "kind: container\nimage: debian@sha256:12",
		"name: x y", "env: [a]", "resources: 3",
	} {
		texts[strings.Replace(head, "name: game\n", "", map[bool]int{true: 1}[strings.HasPrefix(bad, "name:")])+bad+"\n"] = false
	}
	for _, good := range []string{
		"resources: {memory_mib: 0}", "video: {fps: 0}", "codecs: [h264, vp8, AV1]", "env: {}", "extra_data: null", "extra_data: [1, {a: b}]",
		"kind: container\nimage: debian:12", "kind: container\nimage: localhost:5000/a/b_c:V1@sha256:" + strings.Repeat("0", 64), "placement: {}", "hooks: {}", "labels: {a/b: c.d}", "resources: {encoder: gpu-preferred}",
	} {
		texts[head+good+"\n"] = true
	}
	for text, want := range texts {
		_, err := Read(strings.NewReader(text))
		why := fault(schema(t), value(t, text), "")
		if (err == nil) != want || (why == "") != want {
			t.Errorf("%q: the program says %v, the schema %q, want accepted=%v", text, err, why, want)
		}
	}
}
