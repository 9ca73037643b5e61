package gateway

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

// FuzzCreate: whatever the body, the answer is a request within its limits or
// an error for the client that names something.
func FuzzCreate(f *testing.F) {
	for _, s := range []string{
		`{"app":"com.foo.bar","region":"","joinable":false,"screen":{"width":640,"height":360,"fps":30,"density":240},"extra_data":null}`,
		`{"app":"x","idle_time_min":3,"app_version":-1,"perigee":{"codecs":["AV1"],"location":{"latitude":1,"longitude":2}}}`,
		`{"app":"x","screen":{"width":3839,"height":1}}`, `{`, `[]`, `null`, `{"app":1}`, `{"screen":null,"perigee":null}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var b api.CreateBody
		err := decode(body, &b)
		var r api.CreateRequest
		if err == nil {
			r, err = createRequest(b)
		}
		if err != nil {
			var e *api.Error
			if !errors.As(err, &e) || e.Code != api.CodeInvalid || e.Field == "" || e.Message == "" {
				t.Fatalf("%q gives the error %#v", body, err)
			}
			return
		}
		s := r.Screen
		if s.Width%2 != 0 || s.Height%2 != 0 || s.Width < 16 || s.Height < 16 || s.Width > api.MaxWidth || s.Height > api.MaxHeight ||
			s.FPS < 1 || s.FPS > api.MaxFPS || s.Density < api.MinDensity {
			t.Fatalf("%q gives the screen %+v", body, s)
		}
		if r.App == "" || r.IdleMinutes < api.IdleUnset || r.IdleMinutes > api.MaxIdleMinutes || len(r.ExtraData) > api.MaxExtraData ||
			len(r.Codecs) > len(api.Codecs()) || len(r.ExtraData) > 0 && !json.Valid(r.ExtraData) {
			t.Fatalf("%q gives %+v", body, r)
		}
		if b.Perigee != nil && b.Perigee.Location != nil {
			if l, err := location(*b.Perigee.Location); err == nil && (l.Latitude < -90 || l.Latitude > 90 || !l.Known) {
				t.Fatalf("%q gives the location %+v", body, l)
			}
		}
	})
}
