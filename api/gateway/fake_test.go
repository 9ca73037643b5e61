package gateway

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// fake is a scheduler in memory, with every interface of the gateway.
type fake struct {
	mu       sync.Mutex
	key      ed25519.PrivateKey
	sessions map[api.SessionID]*api.Session
	next     int
	creates  []api.CreateRequest
	joins    []api.JoinRequest
	ends     []api.EndRequest
	apps     map[string]api.App
	hidden   map[string]map[int]bool // versions that are not published
	dropped  []int
	tokens   map[string]api.Grant
	accounts map[string]api.Account
	nodes    []api.NodeView
	nodeJoin []string // remote addresses of joins
	status   api.ClusterStatus
	located  []string
	links    chan *fakeLink // each opened link
	fail     error          // answered by every call of Sessions, when set
	openErr  []error        // answered by OpenSignal, one after the other
	shares   []api.Share
}

func newFake(t *testing.T) *fake {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	full := []api.Right{api.RightSessions, api.RightOnBehalf}
	return &fake{
		key: key, sessions: map[api.SessionID]*api.Session{},
		apps: map[string]api.App{
			"xterm": {Name: "xterm", Version: 3, Kind: api.AppProgram, Command: []string{"xterm"}},
			"cave":  {Name: "cave", Version: 1, Kind: api.AppExternal},
		},
		tokens: map[string]api.Grant{
			"tok":   {Account: "acme", Rights: full, Uses: -1},
			"other": {Account: "other", Rights: full, Uses: -1},
			"page":  {Account: "acme", Rights: []api.Right{api.RightCreate, api.RightJoin}, App: "xterm", Uses: 3},
			"root":  {Account: "ops", Rights: []api.Right{api.RightAdmin}, Uses: -1},
		},
		accounts: map[string]api.Account{"acme": {Name: "acme"}},
		nodes:    []api.NodeView{{Node: api.Node{ID: "node1"}, Alive: true}, {Node: api.Node{ID: "node2"}}},
		status:   api.ClusterStatus{Healthy: true, Nodes: 2, Replicas: 1, Leader: "s1", Sessions: 0},
		links:    make(chan *fakeLink, 64),
	}
}

var epoch = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func (f *fake) CreateSession(_ context.Context, r api.CreateRequest) (api.Admission, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return api.Admission{}, f.fail
	}
	f.creates = append(f.creates, r)
	if _, ok := f.apps[r.App]; !ok {
		return api.Admission{}, &api.Error{Code: api.CodeNotFound, Field: "app", Message: "does not exist"}
	}
	f.next++
	s := &api.Session{
		ID: api.SessionID(fmt.Sprintf("sess%016d", f.next)), Generation: 1, Account: r.Grant.Account, App: r.App, AppVersion: 3,
		Region: "home", Node: "node1", Pool: api.PoolCPU, Codec: api.H264, Screen: r.Screen, Joinable: r.Joinable,
		Ephemeral: r.Ephemeral, IdleMinutes: r.IdleMinutes, Desired: api.DesiredRun, CreatedAt: epoch.Add(time.Duration(f.next) * time.Second),
		Placement: api.Placement{Rank: 1, DistanceKM: 12.5, EstimateMS: 3, Source: "distance"},
	}
	if !r.Client.Location.Known {
		s.Placement.DistanceKM, s.Placement.EstimateMS = -1, -1
	}
	f.sessions[s.ID] = s
	return api.Admission{Session: *s, Ticket: f.ticket(s.ID, api.RoleControl, 1)}, nil
}

func (f *fake) ticket(id api.SessionID, role api.Role, viewer uint32) string {
	return api.Ticket{Session: id, Generation: 1, Role: role, Viewer: viewer, Expires: time.Now().Add(time.Hour).Unix()}.Sign(f.key)
}

func (f *fake) JoinSession(_ context.Context, id api.SessionID, r api.JoinRequest) (api.Admission, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.joins = append(f.joins, r)
	s := f.sessions[id]
	if s == nil {
		return api.Admission{}, api.Errorf(api.CodeNotFound, "session %s does not exist", id)
	}
	if s.Status() != api.StatusActive {
		return api.Admission{}, api.Errorf(api.CodeConflict, "invalid session state %s", s.Status())
	}
	return api.Admission{Session: *s, Ticket: f.ticket(id, api.RoleControl, 2),
		ICEServers: []api.ICEServer{{URLs: []string{"turn:192.0.2.1:3478"}, Username: "u", Password: "p"}}}, nil
}

func (f *fake) EndSession(_ context.Context, id api.SessionID, e api.EndRequest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	f.ends = append(f.ends, e)
	s := f.sessions[id]
	if s == nil {
		return api.Errorf(api.CodeNotFound, "session %s does not exist", id)
	}
	s.Desired, s.Reason = api.DesiredStop, e.Reason
	return nil
}

func (f *fake) Session(_ context.Context, id api.SessionID) (api.Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.sessions[id]; s != nil {
		return *s, nil
	}
	return api.Session{}, api.Errorf(api.CodeNotFound, "session %s does not exist", id)
}

func (f *fake) Placement(ctx context.Context, id api.SessionID) (api.Explanation, error) {
	s, err := f.Session(ctx, id)
	return api.Explanation{Session: s.ID, Nodes: 2, Candidates: []api.ExplainedCandidate{{Rank: 1, Node: s.Node, Source: "distance"}}}, err
}

// set changes a session.
func (f *fake) set(id api.SessionID, change func(*api.Session)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f.sessions[id])
}

func (f *fake) ListSessions(_ context.Context, q api.SessionQuery) ([]api.Session, int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []api.Session
	for _, s := range f.sessions {
		if (q.Account == "" || q.Account == s.Account) && (q.Status == "" || q.Status == s.Status()) {
			out = append(out, *s)
		}
	}
	sort.Slice(out, func(i, j int) bool { return (out[i].ID < out[j].ID) != (q.SortOrder == "desc") })
	total := len(out)
	out = out[min(q.Offset, len(out)):]
	if q.Limit > 0 {
		out = out[:min(q.Limit, len(out))]
	}
	return out, total, nil
}

func (f *fake) Authenticate(_ context.Context, token string) (api.Grant, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g, ok := f.tokens[token]; ok {
		return g, nil
	}
	return api.Grant{}, api.Errorf(api.CodeUnauthorized, "this token is not known, expired or revoked")
}

func (f *fake) CreateToken(_ context.Context, t api.TokenSpec) (string, api.Grant, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	token := fmt.Sprintf("new-%d", len(f.tokens))
	g := api.Grant{Account: t.Account, TokenID: "id-" + token, Rights: t.Rights, App: t.App, Uses: t.Uses, Expires: epoch.Add(t.TTL)}
	f.tokens[token] = g
	a := f.accounts[t.Account]
	a.Name, a.Tokens = t.Account, append(a.Tokens, g)
	f.accounts[t.Account] = a
	return token, g, nil
}

func (f *fake) RevokeToken(_ context.Context, account, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for t, g := range f.tokens {
		if g.Account == account && g.TokenID == id {
			delete(f.tokens, t)
			return nil
		}
	}
	return api.Errorf(api.CodeNotFound, "token %q does not exist", id)
}

func (f *fake) DeleteAccount(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.accounts[name]; !ok {
		return api.Errorf(api.CodeNotFound, "account %q does not exist", name)
	}
	delete(f.accounts, name)
	return nil
}

func (f *fake) ListAccounts(context.Context) ([]api.Account, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []api.Account
	for _, a := range f.accounts {
		out = append(out, a)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

func (f *fake) JoinNode(_ context.Context, j api.NodeJoin, remote string) (api.NodeJoined, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if j.Token == "" {
		return api.NodeJoined{}, api.Errorf(api.CodeUnauthorized, "a token is needed for an unknown key")
	}
	f.nodeJoin = append(f.nodeJoin, remote)
	return api.NodeJoined{Node: j.Node, PublicAddress: remote}, nil
}

func (f *fake) ListNodes(context.Context) ([]api.NodeView, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]api.NodeView(nil), f.nodes...), nil
}

func (f *fake) SetDrain(_ context.Context, id api.NodeID, drain bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.nodes {
		if f.nodes[i].Node.ID == id {
			f.nodes[i].Node.Drain = drain
			return nil
		}
	}
	return api.Errorf(api.CodeNotFound, "node %s does not exist", id)
}

func (f *fake) RemoveNode(_ context.Context, id api.NodeID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.nodes {
		if f.nodes[i].Node.ID == id {
			f.nodes = append(f.nodes[:i], f.nodes[i+1:]...)
			return nil
		}
	}
	return api.Errorf(api.CodeNotFound, "node %s does not exist", id)
}

func (f *fake) Demand(context.Context) ([]api.DemandCell, error) {
	return []api.DemandCell{{Minute: 1, App: "xterm", Reason: api.RefusedEncoder, Count: 2}}, nil
}

func (f *fake) Status(context.Context) (api.ClusterStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status, f.fail
}

func (f *fake) Regions(context.Context) ([]string, error) { return []string{"home", "away"}, nil }

func (f *fake) CheckTicket(_ context.Context, text string) (api.Ticket, api.Session, error) {
	t, err := api.ParseTicket(text, f.key.Public().(ed25519.PublicKey), time.Now())
	if err != nil {
		return t, api.Session{}, &api.Error{Code: api.CodeUnauthorized, Message: "the ticket is not valid", Err: err}
	}
	s, err := f.Session(context.Background(), t.Session)
	if err != nil {
		return t, s, api.Errorf(api.CodeUnauthorized, "the ticket's session is gone")
	}
	return t, s, nil
}

func (f *fake) Refusals(_ context.Context, limit int) ([]api.Explanation, error) {
	return make([]api.Explanation, min(limit, 2)), nil
}

func (f *fake) AccountPolicy(_ context.Context, name string) (api.AccountPolicy, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.accounts[name]
	if !ok {
		return api.AccountPolicy{}, api.Errorf(api.CodeNotFound, "no account %q", name)
	}
	if a.Policy == nil {
		return api.AccountPolicy{}, nil
	}
	return *a.Policy, nil
}

func (f *fake) SetAccountPolicy(_ context.Context, name string, p *api.AccountPolicy) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.accounts[name]
	if !ok {
		return api.Errorf(api.CodeNotFound, "no account %q", name)
	}
	a.Policy = p
	f.accounts[name] = a
	return nil
}

func (f *fake) Relays(s api.Session) []api.ICEServer {
	if s.Node == "" {
		return nil
	}
	return []api.ICEServer{{URLs: []string{"turn:" + string(s.Node)}, Username: "u", Password: "p"}}
}

func (f *fake) Locate(address string) api.Location {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.located = append(f.located, address)
	if strings.HasPrefix(address, "203.0.113.") {
		return api.Location{Latitude: 52.5, Longitude: 13.4, Known: true, Source: "mmdb"}
	}
	return api.Location{}
}

func (f *fake) OpenSignal(_ context.Context, s api.Session, t api.Ticket) (SignalLink, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.openErr) > 0 {
		err := f.openErr[0]
		f.openErr = f.openErr[1:]
		return nil, err
	}
	l := &fakeLink{session: s, ticket: t, sent: make(chan []byte, 1024), back: make(chan []byte, 16),
		ended: make(chan struct{}), closed: make(chan struct{})}
	f.links <- l
	return l, nil
}

// fakeLink is the way to a stream that the test plays.
type fakeLink struct {
	session api.Session
	ticket  api.Ticket
	sent    chan []byte   // what the client sent
	back    chan []byte   // what the client gets
	ended   chan struct{} // closed by the test: the stream ends it
	closed  chan struct{}
	full    bool
	stuck   atomic.Bool // its instance takes nothing for now
	once    sync.Once
}

func (l *fakeLink) Send(b []byte) error {
	if l.full {
		return api.Errorf(api.CodeUnavailable, "the stream takes no more frames")
	}
	if l.stuck.Load() {
		return api.ErrLinkFull
	}
	l.sent <- b
	return nil
}

func (l *fakeLink) Receive(ctx context.Context) ([]byte, error) {
	select {
	case b := <-l.back:
		return b, nil
	case <-l.ended:
		return nil, fmt.Errorf("the encoder is gone: %w", api.ErrSignalClosed)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *fakeLink) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}
