package manifest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

const full = `name: game
title: A game
kind: program
command: [game, -full]
env: {LANG: C.UTF-8}
resources:
  cpu_millis: 1500
  memory_mib: 512
  processes: 64
  disk_mib: 256
  encoder: software
video: {width: 800, height: 600, fps: 30, density: 96, max_width: 1920, max_height: 1080, max_fps: 60, content: motion, max_kbps: 8000}
codecs: [H264, VP8]
read_only: [/srv/game]
permissions: {network: egress}
hooks:
  pre_start: {command: [sh, -c, "mkdir ~/x"], timeout_s: 5}
  post_start: {command: [ "true" ]}
  post_stop: {command: [ "true" ], timeout_s: 1}
watchdog: {hang_s: 10, draw_s: 20}
restart: true
on_exit: {restart: on-failure, max_restarts: 2}
idle: {minutes: 20}
placement: {max_round_trip_ms: 60, regions: {preferred: [eu]}, min_fps: 15}
labels: {team: games}
extra_data: {level: 3, names: [a, null]}
`

func TestReadWrite(t *testing.T) {
	list, err := Read(strings.NewReader(full + "---\nname: two\ncommand: [x]\n"))
	if err != nil || len(list) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	a := list[0]
	if a.Resources.DiskMiB != 256 || a.Permissions.Network != api.NetworkEgress || a.Hooks.PreStart.TimeoutS != 5 ||
		string(a.ExtraData) != `{"level":3,"names":["a",null]}` || a.Placement.MinFPS != 15 || a.Video.MaxFPS != 60 || a.Video.MaxKbps != 8000 {
		t.Errorf("read as %+v", a)
	}
	// Every field is in the sample, so that the rest of the test holds for all.
	for _, name := range fieldsOf(reflect.TypeFor[api.App]()) {
		if !strings.Contains(full, name+":") && name != "image" && name != "network" && name != "version" {
			t.Errorf("the sample lacks %s", name)
		}
	}
	text, err := Write(a)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Read(strings.NewReader(string(text)))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if !reflect.DeepEqual(again[0], a) {
		t.Errorf("came back as\n%+v\nwant\n%+v\nthrough\n%s", again[0], a, text)
	}
}

func TestReadRefuses(t *testing.T) {
	const head = "name: game\ncommand: [game]\n"
	sum := strings.Repeat("0", 64)
	for text, want := range map[string]string{
		"":                             "the manifest is empty",
		"- a":                          "line 1: an application must be fields",
		"name: [":                      "line 1",
		"name: x y\ncommand: [a]":      `line 1: name: "x y" holds ' '`,
		"name: game":                   "line 1: command: a program needs the command",
		head + "resorces: {}":          `line 3: there is no field "resorces"; do you mean "resources"?`,
		head + "resources:\n  gpus: 2": `line 4: resources: there is no field "gpus"; it has cpu_millis, memory_mib`,
		head + "resources:\n  cpu_millis: 1\n  memory_mib: 2GiB":           `line 5: resources.memory_mib: "2GiB": the field counts MiB: write 2048`,
		head + "resources: {memory_mib: 500MB}":                            `"500MB": the field counts MiB: write 477`,
		head + "resources: {cpu_millis: 1.5}":                              `"1.5": the field counts thousandths of a core: write 1500`,
		head + "resources: {cpu_millis: 500m}":                             "write 500",
		head + "hooks:\n  pre_start:\n    command: [a]\n    timeout_s: 2m": `line 6: hooks.pre_start.timeout_s: "2m": the field counts seconds: write 120`,
		head + "idle: {minutes: 2h}":                                       "write 120",
		head + "resources: {memory_mib: 99999999}":                         "line 3: resources.memory_mib: must be 1 to 1048576, got 99999999",
		head + "resources: {memory_mib: 99999999999999999999}":             "line 3: resources.memory_mib",
		head + "resources: {memory_mib: lots}":                             `must be a whole number, got "lots"`,
		head + "resources: {memory_mib: [1]}":                              "must be a number",
		head + "\n\nvideo:\n  width: 9999\n  height: 10":                   "line 6: video.width: must be 16 to 3840",
		head + "video: {width: 800}":                                       "needs width and height together",
		head + "video: {width: 800, height: 600, max_width: 640}":          "video.width: is above video.max_width, 640",
		head + "video: {max_width: 640, max_height: 480}":                  "is below the general default",
		head + "video: {content: text}":                                    `line 3: video.content: "text" is not known; use auto, detail, motion`,
		head + "permissions: {network: some}":                              "use none, egress, full",
		head + "permissions: {network: full, camera: true}":                `there is no field "camera"`,
		head + "on_exit: {restart: On-Failure}":                            "use never, on-failure, always",
		head + "hooks: {pre_start: {}}":                                    "line 3: hooks.pre_start.command: is missing",
		head + "hooks: {pre_start: {command: [a], timeout_s: 901}}":        "timeout_s: must be 1 to 900",
		head + "name: twice":                                               `line 3: "name" stands here and in line 1: keep one`,
		head + "env: {A: 1}":                                               `line 3: env.A: must be text: write "1" in quotes`,
		head + "env: {A: x, A: y}":                                         "stands here and in line 3",
		head + "network: maybe":                                            "must be true or false",
		head + "title: {}":                                                 "must be text",
		head + "title:":                                                    "is empty: give a value",
		head + "env: &a {A: x}\nlabels: *a":                                "anchors and aliases are not read",
		head + "version: 3":                                                "line 3: version: is given by the catalogue",
		head + "kind: container":                                           "line 3: kind",
		head + "codecs: H264":                                              "must be a list",
		head + "codecs: [H266]":                                            `"H266" is not a codec`,
		head + "labels: {a b: c}":                                          "line 3: labels:",
		head + "placement:\n  order: random":                               `line 4: placement.order: "random"`,
		head + "extra_data: {1: 2}\nresources: {disk_mib: 3}":              "line 3: extra_data: cannot be written as JSON",
		head + "resources: {disk_mib: 3}":                                  "must be 8 to 1048576",
		"name: a\nkind: container\nimage: Debian 12":                       "is not an image's name",
		"name: a\nkind: external\nimage: debian@sha256:" + sum:             "line 3: image: an external application runs elsewhere",
		"name: a\nkind: external\ncommand: [a]":                            "line 3: command: an external application",
		"name: a\nkind: virtual":                                           "use program, container or external",
		strings.Repeat("x", MaxBytes+1):                                    "over 1048576 bytes",
		strings.Repeat("[", 200) + strings.Repeat("]", 200):                "line 1",
		strings.Repeat(head+"---\n", maxDocuments+1):                       "over 256 documents",
	} {
		if strings.HasSuffix(text, "kind: container") {
			want = "line 1: image: a container needs an image"
		}
		_, err := Read(strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q: %v, want %q", text, err, want)
			continue
		}
		if c := api.CodeOf(err); c != api.CodeInvalid && c != api.CodeTooLarge {
			t.Errorf("%.80q: code %s", text, c)
		}
	}
}

// TestDemos reads the manifests of the demo applications.
func TestDemos(t *testing.T) {
	files, err := filepath.Glob("../../deploy/apps/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d manifests, %v", len(files), err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		list, err := Read(strings.NewReader(string(b)))
		if err != nil || len(list) != 1 || list[0].Name+".yaml" != filepath.Base(f) {
			t.Errorf("%s: %+v, %v", f, list, err)
		}
		if why := fault(schema(t), value(t, string(b)), ""); why != "" {
			t.Errorf("%s does not fit the schema: %s", f, why)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(full)
	f.Add("name: a\ncommand: [b]\nresources: {memory_mib: 1GiB}")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := Read(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, a := range list {
			if _, err := a.Normalize(); err != nil {
				t.Errorf("read %q as %+v, which is refused: %v", text, a, err)
			}
			if _, err := json.Marshal(a); err != nil {
				t.Errorf("read %q as what is no JSON: %v", text, err)
			}
		}
	})
}
