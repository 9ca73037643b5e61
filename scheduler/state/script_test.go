package state

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// TestScripts runs testdata/script_*.txt: a line is a command's name and its
// fields as JSON, "wait <duration>", or a remark; what it answers and what the
// state then shows stands indented below it and is rewritten by -update.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/script_*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, file, runScript(t, string(text)))
		})
	}
}

func runScript(t *testing.T, text string) string {
	r := &rig{t: t, s: New(), now: epoch}
	var out strings.Builder
	in := bufio.NewScanner(strings.NewReader(text))
	for in.Scan() {
		line := in.Text()
		if strings.HasPrefix(line, "    ") {
			continue
		}
		out.WriteString(line + "\n")
		name, rest, _ := strings.Cut(line, " ")
		switch {
		case name == "" || strings.HasPrefix(line, "#"):
		case name == "wait":
			d, err := time.ParseDuration(rest)
			if err != nil {
				t.Fatal(err)
			}
			r.now = r.now.Add(d)
		default:
			res := r.try(scripted(t, name, rest))[0]
			out.WriteString("    " + answer(res) + "\n" + show(r.s))
			checkLedger(t, r.s)
		}
	}
	return out.String()
}

// scripted makes a command from its name and fields. Node and App are short for
// a node with so many streams' room and an application of that name.
func scripted(t *testing.T, name, fields string) Command {
	t.Helper()
	switch name {
	case "Node":
		var n struct {
			ID      string
			Streams uint64
		}
		unmarshal(t, fields, &n)
		return node(t, n.ID, n.Streams)
	case "App":
		var a struct{ Name, Command string }
		unmarshal(t, fields, &a)
		return app(t, a.Name, a.Command)
	case "Create":
		c := creation("", "")
		unmarshal(t, fields, c)
		return c
	}
	for k := range kind(128) {
		if c := newCommand(k); c != nil && strings.TrimPrefix(fmt.Sprintf("%T", c), "*state.") == name {
			if fields != "" {
				unmarshal(t, fields, c)
			}
			return c
		}
	}
	t.Fatalf("no command %q", name)
	return nil
}

func unmarshal(t *testing.T, fields string, v any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(fields))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatalf("%s: %v", fields, err)
	}
}

func answer(r Result) string {
	switch {
	case r.Err != nil:
		return string(api.CodeOf(r.Err)) + ": " + r.Err.Error()
	case r.Stop:
		return "ok, stop"
	case r.Duplicate:
		return "ok, again " + string(r.Session.ID)
	default:
		return "ok"
	}
}

// show prints the sessions and the ledger.
func show(s *State) string {
	var b strings.Builder
	for id, v := range s.sessions.Sorted() {
		line := fmt.Sprintf("    %-4s %-11s %s g%d viewer %d connected %v %s", id, v.Status(), v.Node, v.Generation, v.Viewer, v.Connected, v.Reason)
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	for v := range s.Finished() {
		fmt.Fprintf(&b, "    %-4s %-11s %s g%d ended %s\n", v.ID, v.Status(), v.Node, v.Generation, v.Reason)
	}
	for id, n := range s.nodes.Sorted() {
		state := "alive"
		if n.Lost {
			state = "lost"
		}
		if n.Drain {
			state += ", draining"
		}
		for _, c := range n.Pools {
			if used, k := n.Reserved(c.Pool); k > 0 {
				fmt.Fprintf(&b, "    %s %s: %s %d of %d in %d sessions, %d held\n", id, state, c.Pool, used, c.Macroblocks, k, len(n.Held))
			}
		}
	}
	return b.String()
}
