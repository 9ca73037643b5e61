package state

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func stage(t testing.TB, name, cmd string) *StageApp { return &StageApp{Doc: app(t, name, cmd).Doc} }

func TestVersionsArePublished(t *testing.T) {
	r := newRig(t)
	r.do(&Raise{Version: 2})
	if v := r.do(stage(t, "xterm", "two")).App.Version; v != 2 {
		t.Fatalf("staged as version %d", v)
	}
	is := func(want string) {
		t.Helper()
		a, _ := r.s.App("xterm", 0)
		rec, _ := r.s.AppRecord("xterm")
		got := fmt.Sprintf("default %d/%d:", a.Version, rec.Default)
		for _, v := range rec.Versions {
			got += fmt.Sprintf(" %d=%v", v.Version, v.Published)
		}
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
		back, err := Read(bytes.NewReader(dump(t, r.s)))
		if err != nil || !bytes.Equal(dump(t, back), dump(t, r.s)) {
			t.Errorf("the snapshot came back different (%v)", err)
		}
		if b, ok := back.AppRecord("xterm"); !ok || fmt.Sprint(b) != fmt.Sprint(rec) {
			t.Errorf("the snapshot came back as %v, want %v", b, rec)
		}
	}
	is("default 1/1: 1=true 2=false")
	if a, ok := r.s.App("xterm", 2); !ok || a.Command[0] != "two" {
		t.Errorf("the staged version is %+v, %v", a, ok)
	}
	if v := r.do(stage(t, "xterm", "two")).App.Version; v != 2 {
		t.Errorf("the same again is version %d", v)
	}
	r.do(&PublishApp{Name: "xterm", Version: 2, Published: true})
	is("default 2/2: 1=true 2=true")
	r.do(&PublishApp{Name: "xterm", Version: 2})
	r.do(&PublishApp{Name: "xterm", Version: 1})
	if _, ok := r.s.App("xterm", 0); ok {
		t.Error("an application without a published version has a default")
	}
	if apps := r.s.Apps(); len(apps) != 1 || apps[0].Version != 2 {
		t.Errorf("the catalogue shows %v", apps)
	}
	is("default 0/0: 1=false 2=false")
	r.do(app(t, "xterm", "two")) // the same, but published
	is("default 2/2: 1=false 2=true")
	r.refused(api.CodeNotFound, &PublishApp{Name: "xterm", Version: 9})
	r.refused(api.CodeNotFound, &PublishApp{Name: "none", Version: 1})
}

func TestVersionsInUseStay(t *testing.T) {
	r := newRig(t)
	r.do(&Raise{Version: 2}, app(t, "xterm", "two"), creation("s1", "n2"))
	e := r.refused(api.CodeConflict, &DropVersion{Name: "xterm", Version: 1})
	if !strings.Contains(e.Message, "run by 1 sessions") {
		t.Errorf("refused with %q", e.Message)
	}
	for i := range 2 * keepVersions {
		r.do(app(t, "xterm", fmt.Sprint("command", i)))
	}
	rec, _ := r.s.AppRecord("xterm")
	if _, err := rec.Version(1); err != nil || len(rec.Versions) != keepVersions {
		t.Errorf("of %d versions the one in use: %v", len(rec.Versions), err)
	}
	r.report("s1", api.ObservedStopped, 1)
	r.do(&DropVersion{Name: "xterm", Version: 1})
	if _, ok := r.s.App("xterm", 1); ok {
		t.Error("version 1 is still there")
	}
	r.refused(api.CodeNotFound, &DropVersion{Name: "xterm", Version: 1})
	r.do(app(t, "one", "x"))
	r.refused(api.CodeConflict, &DropVersion{Name: "one", Version: 1})
	if v := r.do(app(t, "xterm", "last")).App.Version; v != 3+2*keepVersions {
		t.Errorf("the next version is %d: a number was given twice", v)
	}
}

// TestFullOfUsedVersions: an application whose versions are all run takes no more.
func TestFullOfUsedVersions(t *testing.T) {
	r := newRig(t)
	r.do(&Raise{Version: 2}, node(t, "big", 100))
	for v := 1; v < keepVersions; v++ {
		c := creation(fmt.Sprint("s", v), "big")
		c.AppVersion = v
		r.do(c, app(t, "xterm", fmt.Sprint("command", v)))
	}
	c := creation("last", "big")
	c.AppVersion = keepVersions
	r.do(c)
	// The newest published one is the default, so it is never dropped.
	r.refused(api.CodeConflict, app(t, "xterm", "more"))
	r.report("s7", api.ObservedStopped, 1)
	r.do(app(t, "xterm", "more"))
	if _, ok := r.s.App("xterm", 7); ok {
		t.Error("the version that nobody ran is still there")
	}
}
