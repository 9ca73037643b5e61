package gateway

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// rig is a gateway on a loopback port with a fake behind it.
type rig struct {
	*fake
	t   *testing.T
	srv *Server
	url string
}

func newRig(t *testing.T, change ...func(*Config)) *rig {
	t.Helper()
	f := newFake(t)
	cfg := Config{Sessions: f, Catalog: f, Accounts: f, Nodes: f, Cluster: f, Signals: f, Locator: f,
		Log: slog.New(slog.DiscardHandler), Version: "v9",
		Web: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "player "+r.URL.Path) })}
	for _, c := range change {
		c(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.timing = timing{hold: 30 * time.Second, watch: 5 * time.Millisecond, settled: 5 * time.Millisecond,
		ping: time.Hour, write: 5 * time.Second, retry: time.Millisecond}
	h := httptest.NewServer(s.Handler())
	t.Cleanup(h.Close)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return &rig{fake: f, t: t, srv: s, url: h.URL}
}

// answer is one HTTP answer with its envelope.
type answer struct {
	status int
	header http.Header
	body   string
	env    struct {
		Type       string           `json:"type"`
		Status     string           `json:"status"`
		StatusCode int              `json:"status_code"`
		Metadata   json.RawMessage  `json:"metadata"`
		TotalSize  *int             `json:"total_size"`
		Error      string           `json:"error"`
		Perigee    *api.ErrorDetail `json:"perigee"`
	}
}

// call sends a request with the account's token; headers come in pairs.
func (r *rig) call(method, path, body string, headers ...string) answer {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Macaroon root=tok")
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
		} else {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	a := answer{status: res.StatusCode, header: res.Header, body: string(b)}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(b, &a.env); err != nil {
			r.t.Fatalf("%s %s: answer is no envelope: %v\n%s", method, path, err, b)
		}
		if a.env.StatusCode != a.status {
			r.t.Errorf("%s %s: envelope says %d, HTTP %d", method, path, a.env.StatusCode, a.status)
		}
	}
	return a
}

// create makes a session of an application and gives the answer's metadata.
func (r *rig) create(app string) api.CreateAnswer {
	r.t.Helper()
	a := r.call("POST", "/1.0/sessions/", `{"app":"`+app+`","joinable":true}`)
	if a.status != http.StatusCreated {
		r.t.Fatalf("create: %d %s", a.status, a.body)
	}
	var out api.CreateAnswer
	if err := json.Unmarshal(a.env.Metadata, &out); err != nil {
		r.t.Fatal(err)
	}
	return out
}
