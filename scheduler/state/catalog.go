package state

import (
	"bytes"
	"slices"

	"github.com/perigee-cloud/perigee/api"
)

// StageApp makes a new version of an application that is not published: only
// who asks for its number gets it. Since entries of version 2.
type StageApp struct{ Doc []byte } // api.App as JSON

func (*StageApp) kind() kind { return kindStageApp }

func (m *StageApp) fields(c *coder) { c.bytes(&m.Doc) }

func (m *StageApp) apply(t *tx) Result { return t.addVersion(m.Doc, false) }

// PublishApp publishes a version, or takes it back. The default version is the
// highest published one. Since entries of version 2.
type PublishApp struct {
	Name      string
	Version   int
	Published bool
}

func (*PublishApp) kind() kind { return kindPublishApp }

func (m *PublishApp) fields(c *coder) {
	str(c, &m.Name)
	num(c, &m.Version)
	c.bool(&m.Published)
}

func (m *PublishApp) apply(t *tx) Result {
	a, v, err := t.appVersion(m.Name, m.Version)
	if err != nil {
		return Result{Err: err}
	}
	app := v.App
	if v.hidden == m.Published {
		c := *v
		c.hidden = !m.Published
		t.replace(a, &c)
	}
	return Result{App: &app}
}

// DropVersion removes one version that nobody runs. Since entries of version 2.
type DropVersion struct {
	Name    string
	Version int
}

func (*DropVersion) kind() kind { return kindDropVersion }

func (m *DropVersion) fields(c *coder) {
	str(c, &m.Name)
	num(c, &m.Version)
}

func (m *DropVersion) apply(t *tx) Result {
	a, v, err := t.appVersion(m.Name, m.Version)
	if err != nil {
		return Result{Err: err}
	}
	if n := t.running(m.Name)[m.Version]; n > 0 {
		return Result{Err: api.Errorf(api.CodeConflict, "version %d of application %q is run by %d sessions: end them first, or wait until they have ended", m.Version, m.Name, n)}
	}
	if len(a.Versions) == 1 {
		return Result{Err: api.Errorf(api.CodeConflict, "version %d is the only one of application %q: delete the application instead", m.Version, m.Name)}
	}
	next := &App{Name: a.Name, Last: a.Last}
	for _, o := range a.Versions {
		if o != v {
			next.Versions = append(next.Versions, o)
		}
	}
	t.apps = t.apps.Set(a.Name, next)
	return Result{}
}

func (t *tx) appVersion(name string, n int) (*App, *AppVersion, error) {
	a, ok := t.apps.Get(name)
	if !ok || len(a.Versions) == 0 {
		return nil, nil, api.Errorf(api.CodeNotFound, "no application %q", name)
	}
	for _, v := range a.Versions {
		if v.Version == n {
			return a, v, nil
		}
	}
	return nil, nil, api.Errorf(api.CodeNotFound, "application %q has no version %d", name, n)
}

func (t *tx) replace(a *App, v *AppVersion) {
	next := *a
	next.Versions = slices.Clone(a.Versions)
	for i, o := range next.Versions {
		if o.Version == v.Version {
			next.Versions[i] = v
		}
	}
	t.apps = t.apps.Set(a.Name, &next)
}

// running counts the live sessions of an application by version.
func (t *tx) running(app string) map[int]int {
	out := map[int]int{}
	for _, s := range t.sessions.All() {
		if s.App == app {
			out[s.AppVersion]++
		}
	}
	return out
}

// addVersion makes a new version, unless the newest is the same; then that is
// published where it was not and should be.
func (t *tx) addVersion(doc []byte, published bool) Result {
	v, err := parseApp(doc)
	if err != nil {
		return Result{Err: err}
	}
	if err := api.ValidAppName(v.Name); err != nil {
		return Result{Err: err}
	}
	next := App{Name: v.Name}
	if old, ok := t.apps.Get(v.Name); ok {
		next = *old
		if n := len(old.Versions); n > 0 && bytes.Equal(old.Versions[n-1].doc, doc) {
			same := *old.Versions[n-1]
			if same.hidden && published {
				same.hidden = false
				t.replace(old, &same)
			}
			return Result{App: &same.App}
		}
	}
	next.Last++
	v.Version, v.hidden = next.Last, !published
	next.Versions = append(slices.Clone(next.Versions), v)
	if err := t.prune(&next); err != nil {
		return Result{Err: err}
	}
	t.apps = t.apps.Set(v.Name, &next)
	app := v.App
	return Result{App: &app}
}

// prune keeps an application to keepVersions: the oldest goes, which before
// entries of version 2 was so even when somebody ran it.
func (t *tx) prune(a *App) error {
	extra := len(a.Versions) - keepVersions
	if extra <= 0 {
		return nil
	}
	if t.EntryVersion() < 2 {
		a.Versions = a.Versions[extra:]
		return nil
	}
	used, keep := t.running(a.Name), defaultOf(a)
	for i, v := range a.Versions {
		if used[v.Version] == 0 && v != keep && i < len(a.Versions)-1 {
			a.Versions = slices.Delete(a.Versions, i, i+1)
			return nil
		}
	}
	return api.Errorf(api.CodeConflict, "application %q has %d versions and all are in use: end their sessions, or delete versions", a.Name, keepVersions)
}

// defaultOf is the last published version, nil when none is.
func defaultOf(a *App) *AppVersion {
	for _, v := range slices.Backward(a.Versions) {
		if !v.hidden {
			return v
		}
	}
	return nil
}

// record shows an application.
func (a *App) record() api.AppRecord {
	r := api.AppRecord{Name: a.Name, Versions: []api.AppVersionInfo{}}
	for _, v := range a.Versions {
		r.Versions = append(r.Versions, api.AppVersionInfo{Version: v.Version, Published: !v.hidden, App: v.App})
	}
	if v := defaultOf(a); v != nil {
		r.Default = v.Version
	}
	return r
}

// AppRecord finds an application with its versions.
func (s *State) AppRecord(name string) (api.AppRecord, bool) {
	a, ok := s.apps.Get(name)
	if !ok || len(a.Versions) == 0 {
		return api.AppRecord{}, false
	}
	return a.record(), true
}

// hiddenFields are the versions of an application that are not published: a
// record of their own, so that snapshots without any read as before.
func hiddenFields(c *coder, name *string, versions *[]int) {
	str(c, name)
	list(c, versions, num[int])
}

func (a *App) hidden() []int {
	var out []int
	for _, v := range a.Versions {
		if v.hidden {
			out = append(out, v.Version)
		}
	}
	return out
}

func (s *State) loadHidden(c *coder) {
	var name string
	var versions []int
	hiddenFields(c, &name, &versions)
	a, ok := s.apps.Get(name)
	if c.err != nil {
		return
	}
	if !ok {
		c.fail("versions of an unknown application")
		return
	}
	for _, v := range a.Versions {
		v.hidden = slices.Contains(versions, v.Version)
	}
}
