package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

// constant answers every create with the same session, so that the benchmark
// measures the gateway alone.
type constant struct {
	*fake
	admission api.Admission
}

// CreateSession answers without doing anything.
func (c constant) CreateSession(context.Context, api.CreateRequest) (api.Admission, error) {
	return c.admission, nil
}

type nowhere struct{}

// Locate knows no place.
func (nowhere) Locate(string) api.Location { return api.Location{} }

// BenchmarkCreate is one create through the whole handler, without the network.
func BenchmarkCreate(b *testing.B) {
	f := &fake{tokens: map[string]api.Grant{"tok": {Account: "acme", Rights: []api.Right{api.RightSessions}}}}
	back := constant{f, api.Admission{Session: api.Session{ID: "s1", Account: "acme", Region: "home"}, Ticket: strings.Repeat("t", 200)}}
	s, err := New(Config{Sessions: back, Catalog: f, Accounts: f, Nodes: f, Cluster: f, Signals: f, Locator: nowhere{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	const body = `{"app":"com.foo.bar","region":"","joinable":false,"screen":{"width":640,"height":360,"fps":30,"density":240},"extra_data":null}`
	h := s.Handler()
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, "/1.0/sessions/", strings.NewReader(body))
		r.Header.Set("Authorization", "Macaroon root=tok")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusCreated {
			b.Fatal(w.Body)
		}
	}
}
