package webtest

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/perigee-cloud/perigee/api/web"
)

const sessionID = "c25k8fh3pn6a8q46taug"

// gateway is the far side of the wire contract: it answers as a test tells it
// to and keeps what the browser sent.
type gateway struct {
	*httptest.Server
	t *testing.T

	mu       sync.Mutex
	creates  []map[string]any
	joins    []map[string]any
	auth     []string // Authorization of each API request
	frames   []map[string]any
	control  []message
	peer     *peer
	refusal  *refusal // of creates and joins
	status   string   // what GET of the session shows
	reason   string
	apps     []map[string]any
	discover map[string]any   // the answer to discover; nil = none
	probes   []map[string]any // answered to GET /1.0/probes
	socket   func(c *websocket.Conn) bool
	wsClosed bool
	queue    map[string]any // in the answer to a create; nil = it has a node
}

type refusal struct {
	status int
	body   map[string]any
}

type message struct {
	Type string         `json:"type"`
	Data map[string]any `json:"data"`
}

func newGateway(t *testing.T) *gateway {
	g := &gateway{
		t: t, status: "active", probes: []map[string]any{},
		discover: map[string]any{"type": "resp:discover", "max_api_version": 2, "fps": 60, "capabilities": []string{}},
		apps: []map[string]any{
			{"name": "demo", "perigee": map[string]any{"title": "Demo game"}},
			{"name": "xterm", "perigee": map[string]any{"title": "Terminal"}},
		},
	}
	mux := http.NewServeMux()
	mux.Handle("/", web.Handler())
	mux.HandleFunc("GET /1.0/applications", g.applications)
	mux.HandleFunc("GET /1.0/probes", func(w http.ResponseWriter, _ *http.Request) { g.answer(w, 200, g.probes) })
	mux.HandleFunc("GET /old/1.0/probes", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"type":"error","status":"failed","status_code":404,"error":"not served here","perigee":{"code":"not_found"}}`, 404)
	})
	mux.HandleFunc("POST /1.0/sessions/", g.create)
	mux.HandleFunc("POST /1.0/sessions/{id}/join", g.join)
	mux.HandleFunc("POST /1.0/sessions/{id}/share", func(w http.ResponseWriter, r *http.Request) {
		if g.admit(w, r) {
			id := r.PathValue("id")
			g.answer(w, 200, map[string]any{"id": id + "-1", "url": g.URL + "/connect?token=t", "expiry_at": 1,
				"perigee": map[string]any{"role": "viewer", "link": g.URL + "/?session=" + id + "#share=t"}})
		}
	})
	mux.HandleFunc("GET /1.0/sessions/{id}/connect", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.URL.Query().Get("token") != "t" {
			http.Error(w, "{}", http.StatusUnauthorized)
			return
		}
		a := g.admission()
		delete(a, "id")
		g.answer(w, 200, a)
	})
	mux.HandleFunc("GET /1.0/sessions/{id}", g.session)
	mux.HandleFunc("GET /1.0/session/{id}/sockets/slave", g.slave)
	mux.HandleFunc("GET /module.html", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, sdkPage) // a lost page fails the test that asked for it
	})
	g.Server = httptest.NewServer(mux)
	t.Cleanup(func() {
		g.closePeer()
		g.CloseClientConnections()
		g.Close()
	})
	return g
}

func (g *gateway) answer(w http.ResponseWriter, status int, metadata any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "sync", "status": "success", "status_code": status, "metadata": metadata})
}

// admit checks the token and gives the test's refusal, when there is one.
func (g *gateway) admit(w http.ResponseWriter, r *http.Request) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.auth = append(g.auth, r.Header.Get("Authorization"))
	f := g.refusal
	if r.Header.Get("Authorization") != "Macaroon root=secret" {
		f = &refusal{401, map[string]any{"error": "the token is unknown", "perigee": map[string]any{"code": "unauthorized"}}}
	}
	if f == nil {
		return true
	}
	f.body["type"], f.body["status"], f.body["status_code"] = "error", "failed", f.status
	w.WriteHeader(f.status)
	_ = json.NewEncoder(w).Encode(f.body)
	return false
}

func (g *gateway) applications(w http.ResponseWriter, r *http.Request) {
	if g.admit(w, r) {
		g.answer(w, 200, g.apps)
	}
}

func (g *gateway) create(w http.ResponseWriter, r *http.Request) {
	if !g.admit(w, r) {
		return
	}
	g.keep(&g.creates, r)
	g.answer(w, 201, g.admission())
}

func (g *gateway) join(w http.ResponseWriter, r *http.Request) {
	if !g.admit(w, r) {
		return
	}
	g.keep(&g.joins, r)
	a := g.admission()
	delete(a, "id") // the contract's join answer has none
	g.answer(w, 200, a)
}

func (g *gateway) keep(into *[]map[string]any, r *http.Request) {
	var body map[string]any
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		g.t.Errorf("the body of %s is not JSON: %v", r.URL.Path, err)
	}
	g.mu.Lock()
	*into = append(*into, body)
	g.mu.Unlock()
}

func (g *gateway) admission() map[string]any {
	return map[string]any{
		"id": sessionID, "region": "eu-north", "status": "created", "joinable": true,
		"url":          strings.Replace(g.URL, "http", "ws", 1) + "/1.0/session/" + sessionID + "/sockets/slave?token=ticket",
		"stun_servers": []any{},
		"perigee":      map[string]any{"node": "4hcskqzm0aeh1t2b", "region": "eu-north", "rank": 1, "distance_km": 41.6, "estimate_ms": 3.1, "queue": g.queue},
	}
}

func (g *gateway) session(w http.ResponseWriter, r *http.Request) {
	if !g.admit(w, r) {
		return
	}
	g.mu.Lock()
	m := map[string]any{"id": r.PathValue("id"), "status": g.status, "status_message": g.reason, "perigee": map[string]any{"reason": g.reason}}
	g.mu.Unlock()
	g.answer(w, 200, m)
}

func (g *gateway) slave(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("token") != "ticket" {
		http.Error(w, "no ticket", http.StatusUnauthorized)
		return
	}
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		g.t.Errorf("accept: %v", err)
		return
	}
	defer func() { _ = c.CloseNow() }()
	if g.socket != nil && g.socket(c) {
		return
	}
	g.signal(r.Context(), c)
}

func (g *gateway) messages(kind string) []message {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []message
	for _, m := range g.control {
		if m.Type == kind {
			out = append(out, m)
		}
	}
	return out
}

// clear forgets the control messages so far.
func (g *gateway) clear() {
	g.mu.Lock()
	g.control = nil
	g.mu.Unlock()
}

func (g *gateway) set(f func()) {
	g.mu.Lock()
	f()
	g.mu.Unlock()
}
