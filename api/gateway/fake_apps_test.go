package gateway

import (
	"context"
	"sort"

	"github.com/perigee-cloud/perigee/api"
)

func (f *fake) Applications(context.Context) ([]api.App, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []api.App
	for _, a := range f.apps {
		out = append(out, a)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

func (f *fake) PutApplication(_ context.Context, a api.App) (api.App, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a.Version = f.apps[a.Name].Version + 1
	f.apps[a.Name] = a
	return a, nil
}

func (f *fake) Application(_ context.Context, name string) (api.AppRecord, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.apps[name]
	if !ok {
		return api.AppRecord{}, api.Errorf(api.CodeNotFound, "application %q does not exist", name)
	}
	r := api.AppRecord{Name: name}
	for v, last := 1, a.Version; v <= last; v++ {
		a.Version = v
		r.Versions = append(r.Versions, api.AppVersionInfo{Version: v, Published: !f.hidden[name][v], App: a})
		if !f.hidden[name][v] {
			r.Default = v
		}
	}
	return r, nil
}

func (f *fake) StageApplication(ctx context.Context, a api.App) (api.App, error) {
	a, err := f.PutApplication(ctx, a)
	if err == nil {
		err = f.PublishVersion(ctx, a.Name, a.Version, false)
	}
	return a, err
}

func (f *fake) PublishVersion(_ context.Context, name string, version int, published bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a, ok := f.apps[name]; !ok || version > a.Version {
		return api.Errorf(api.CodeNotFound, "application %q has no version %d", name, version)
	}
	if f.hidden == nil {
		f.hidden = map[string]map[int]bool{}
	}
	if f.hidden[name] == nil {
		f.hidden[name] = map[int]bool{}
	}
	f.hidden[name][version] = !published
	return nil
}

func (f *fake) DeleteVersion(_ context.Context, name string, version int) error {
	f.dropped = append(f.dropped, version)
	return nil
}

func (f *fake) DeleteApplication(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.apps[name]; !ok {
		return api.Errorf(api.CodeNotFound, "application %q does not exist", name)
	}
	delete(f.apps, name)
	return nil
}
