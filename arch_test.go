package perigee

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/perigee-cloud/perigee/"

// floors is the whole shape of the code. A package imports only packages of
// lower floors; two packages of one floor never import each other.
var floors = []struct {
	floor    int
	packages string
}{
	{0, "api api/web gossip/simnet deploy/apps edge/image/imagetest"},
	{1, "api/manifest geo gossip media media/link media/stun media/turn media/xauth media/xvfb api/bus api/client edge/gamepad edge/gpu edge/image edge/local scheduler/state"},
	{2, "edge/gpu/nvml edge/certify edge/engines edge/instance edge/relay scheduler/place media/capture media/encode media/input media/rtc api/gateway"},
	{3, "edge/stream edge/encoder edge/probe scheduler edge"},
	{4, "cmd/run/control cmd/run/node"},
	{5, "cmd/run/fleet cmd/run/site bench/fleet bench/ledger"},
	{6, "cmd/perigee cmd/perigee-edge cmd/run/e2e bench bench/latencyapp api/web/build api/web/webtest"},
}

// pure packages take time and ids as arguments: they read no clock, no dice,
// no socket, and start no goroutine.
var pure = map[string]bool{"api": true, "scheduler/state": true, "scheduler/place": true}

// impureCalls are the functions that a pure package may not name.
var impureCalls = map[string][]string{
	"time":         {"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "NewTimer", "NewTicker", "Tick"},
	"os":           {"*"},
	"net":          {"Dial", "Listen", "ListenPacket", "DialTimeout"},
	"math/rand":    {"*"},
	"math/rand/v2": {"*"},
	"crypto/rand":  {"*"},
}

// noC are the packages of processes that never enter C.
var noC = []string{"edge", "edge/stream", "edge/relay", "edge/image", "edge/instance", "edge/certify", "edge/engines", "scheduler", "cmd/run/node", "cmd/run/control", "cmd/perigee"}

type source struct {
	pkg, path string
	file      *ast.File
	test      bool
	lines     int
}

func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && p != "." || d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, p, b, parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, source{
			pkg: filepath.ToSlash(filepath.Dir(p)), path: p, file: f,
			test: strings.HasSuffix(p, "_test.go"), lines: strings.Count(string(b), "\n"),
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 10 {
		t.Fatalf("found only %d Go files: is the test run from the repository's root?", len(out))
	}
	return out
}

func floorOf() map[string]int {
	m := map[string]int{}
	for _, f := range floors {
		for _, p := range strings.Fields(f.packages) {
			m[p] = f.floor
		}
	}
	return m
}

func imports(s source) []string {
	var out []string
	for _, i := range s.file.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		out = append(out, p)
	}
	return out
}

func TestFloors(t *testing.T) {
	floor := floorOf()
	for _, s := range sources(t) {
		if s.pkg == "." {
			continue
		}
		mine, ok := floor[s.pkg]
		if !ok {
			t.Errorf("%s: package %s stands on no floor: add it to the table", s.path, s.pkg)
			continue
		}
		for _, imp := range imports(s) {
			pkg, ours := strings.CutPrefix(imp, module)
			if !ours || s.test && (pkg == s.pkg || floor[pkg] <= mine) {
				continue
			}
			if f, known := floor[pkg]; !known || f >= mine {
				t.Errorf("%s (floor %d) imports %s (floor %d)", s.path, mine, pkg, f)
			}
			for _, top := range []string{"scheduler", "edge"} {
				inside := strings.HasPrefix(pkg, top+"/")
				allowed := s.pkg == top || strings.HasPrefix(s.pkg, top+"/") ||
					strings.HasPrefix(s.pkg, "cmd/") || strings.HasPrefix(s.pkg, "bench")
				if inside && !allowed {
					t.Errorf("%s enters %s: only %s, cmd and bench may", s.path, pkg, top)
				}
			}
		}
	}
}

func TestPurity(t *testing.T) {
	for _, s := range sources(t) {
		if !pure[s.pkg] || s.test {
			continue
		}
		names := map[string]string{} // local name → import path
		for _, i := range s.file.Imports {
			p, _ := strconv.Unquote(i.Path.Value)
			name := p[strings.LastIndex(p, "/")+1:]
			if i.Name != nil {
				name = i.Name.Name
			}
			names[name] = p
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s starts a goroutine", s.path)
			case *ast.SelectorExpr:
				x, ok := n.X.(*ast.Ident)
				if !ok {
					return true
				}
				for _, banned := range impureCalls[names[x.Name]] {
					if banned == "*" || banned == n.Sel.Name {
						t.Errorf("%s uses %s.%s", s.path, names[x.Name], n.Sel.Name)
					}
				}
			}
			return true
		})
	}
}

func TestAPIImportsTheStandardLibraryOnly(t *testing.T) {
	for _, s := range sources(t) {
		if s.pkg != "api" || s.test {
			continue
		}
		for _, imp := range imports(s) {
			if strings.Contains(strings.Split(imp, "/")[0], ".") {
				t.Errorf("%s imports %s", s.path, imp)
			}
		}
	}
}

func TestProcessesWithoutC(t *testing.T) {
	graph := map[string][]string{}
	c := map[string]bool{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		for _, imp := range imports(s) {
			if pkg, ours := strings.CutPrefix(imp, module); ours {
				graph[s.pkg] = append(graph[s.pkg], pkg)
			}
			if imp == "C" || strings.Contains(imp, "go-astiav") || strings.Contains(imp, "go-nvml") {
				c[s.pkg] = true
			}
		}
	}
	var reaches func(p string, seen map[string]bool) string
	reaches = func(p string, seen map[string]bool) string {
		if c[p] {
			return p
		}
		seen[p] = true
		for _, q := range graph[p] {
			if !seen[q] {
				if r := reaches(q, seen); r != "" {
					return r
				}
			}
		}
		return ""
	}
	for _, p := range noC {
		if r := reaches(p, map[string]bool{}); r != "" {
			t.Errorf("%s reaches C through %s", p, r)
		}
	}
}

func TestProportions(t *testing.T) {
	doc := map[string]bool{}
	pkgs := map[string]bool{}
	for _, s := range sources(t) {
		if s.lines > 600 {
			t.Errorf("%s has %d lines, over 600: split it", s.path, s.lines)
		}
		if s.test {
			continue
		}
		pkgs[s.pkg] = true
		doc[s.pkg] = doc[s.pkg] || s.file.Doc != nil
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == "init" && f.Recv == nil {
				t.Errorf("%s has an init function", s.path)
			}
		}
	}
	for p := range pkgs {
		if !doc[p] {
			t.Errorf("package %s has no doc comment", p)
		}
	}
}
