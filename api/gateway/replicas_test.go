package gateway

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// fakeReplicas is a cluster of which this gateway's replica is age behind.
type fakeReplicas struct {
	age     time.Duration
	err     error // of Consistent
	asked   int
	removed string
	leader  string
	added   api.Replica
	put     string
}

func (f *fakeReplicas) Replicas(context.Context) ([]api.ReplicaView, error) {
	return []api.ReplicaView{{Replica: api.Replica{ID: "r-1"}, Leader: true}}, nil
}

func (f *fakeReplicas) AddReplica(_ context.Context, j api.ReplicaJoin) error {
	f.added = j.Replica
	return nil
}

func (f *fakeReplicas) RemoveReplica(_ context.Context, id string) error {
	f.removed = id
	return nil
}

func (f *fakeReplicas) TransferLeadership(_ context.Context, to string) error {
	f.leader = to
	return nil
}

func (f *fakeReplicas) SaveSnapshot(_ context.Context, w io.Writer) error {
	_, err := io.WriteString(w, "all there is")
	return err
}

func (f *fakeReplicas) RestoreSnapshot(_ context.Context, from io.Reader) error {
	b, err := io.ReadAll(from)
	f.put = string(b)
	return err
}

func (f *fakeReplicas) Consistent(context.Context) error {
	f.asked++
	return f.err
}

func (f *fakeReplicas) Staleness() time.Duration { return f.age }

// asAdmin asks on the admin socket.
func asAdmin(r *rig, method, path, body string) *httptest.ResponseRecorder {
	res := httptest.NewRecorder()
	r.srv.AdminHandler().ServeHTTP(res, httptest.NewRequest(method, path, strings.NewReader(body)))
	return res
}

func TestReadsSayHowOldTheyMayBe(t *testing.T) {
	gone := api.Errorf(api.CodeUnavailable, "the schedulers have no leader: try again")
	for name, tt := range map[string]struct {
		query  string
		age    time.Duration
		err    error
		status int
		head   string
		asked  int
	}{
		"fresh enough":          {age: 40 * time.Millisecond, status: 200, head: "40"},
		"too old":               {age: time.Minute, status: 200, head: "0", asked: 1},
		"too old and no leader": {age: time.Minute, err: gone, status: 503, asked: 1},
		"any age":               {query: "?stale", age: time.Minute, err: gone, status: 200, head: "60000"},
		"consistent":            {query: "?consistent", age: time.Millisecond, status: 200, head: "0", asked: 1},
		"consistent, no leader": {query: "?consistent", err: gone, status: 503, asked: 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeReplicas{age: tt.age, err: tt.err}
			r := newRig(t, func(c *Config) { c.Replicas = f })
			res := asAdmin(r, http.MethodGet, "/1.0/sessions"+tt.query, "")
			if res.Code != tt.status || res.Header().Get(stalenessHead) != tt.head || f.asked != tt.asked {
				t.Errorf("HTTP %d, age %q, asked the leader %d times; want %d, %q, %d", res.Code, res.Header().Get(stalenessHead), f.asked, tt.status, tt.head, tt.asked)
			}
			if tt.status == 503 && res.Header().Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		})
	}
}

func TestReplicaRoutes(t *testing.T) {
	f := &fakeReplicas{}
	r := newRig(t, func(c *Config) { c.Replicas = f })
	do := func(method, path, body string) string {
		t.Helper()
		res := asAdmin(r, method, path, body)
		if res.Code != http.StatusOK {
			t.Fatalf("%s %s: HTTP %d %s", method, path, res.Code, res.Body)
		}
		return res.Body.String()
	}
	if got := do(http.MethodGet, "/1.0/perigee/replicas", ""); !strings.Contains(got, `"r-1"`) {
		t.Errorf("list: %s", got)
	}
	do(http.MethodPost, "/1.0/perigee/replicas", `{"replica":{"id":"r-2","raft":"h:1"}}`)
	do(http.MethodDelete, "/1.0/perigee/replicas/r-1", "")
	do(http.MethodPost, "/1.0/perigee/leader", `{"replica":"r-2"}`)
	if f.added.ID != "r-2" || f.removed != "r-1" || f.leader != "r-2" {
		t.Errorf("added %q, removed %q, leader %q", f.added.ID, f.removed, f.leader)
	}
	if got := do(http.MethodGet, "/1.0/perigee/snapshot", ""); got != "all there is" {
		t.Errorf("snapshot %q", got)
	}
	big := strings.Repeat("x", 2*MaxBody)
	do(http.MethodPost, "/1.0/perigee/snapshot", big)
	if f.put != big {
		t.Errorf("restored %d bytes", len(f.put))
	}
	for _, path := range []string{"/1.0/perigee/snapshot", "/1.0/perigee/replicas"} {
		res := httptest.NewRecorder()
		r.srv.Handler().ServeHTTP(res, httptest.NewRequest(http.MethodGet, path, nil))
		if res.Code != http.StatusUnauthorized {
			t.Errorf("%s without a token: HTTP %d", path, res.Code)
		}
	}
	none := newRig(t)
	if res := asAdmin(none, http.MethodGet, "/1.0/perigee/replicas", ""); res.Code != http.StatusNotFound {
		t.Errorf("without replicas: HTTP %d", res.Code)
	}
}
