package state

import (
	"encoding/json"
	"iter"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// State is one immutable root of everything the schedulers agree on.
type State struct {
	last     int64 // latest time seen, ns
	secrets  Secrets
	apps     Map[*App]
	accounts Map[*Account]
	tokens   Map[*Token]
	nodes    Map[*Node]
	sessions Map[*Session]      // live ones
	keys     Map[api.SessionID] // by account and idempotency key
	finished finished
	demand   []*demandMinute
	replicas Map[*replicaDoc]
	version  int // of the entries that are written; 0 = 1
	queue    queue
	policies Map[*policyDoc] // by account
	networks Map[*network]   // of the atlas
	edits    uint64          // entries applied since New or Read: numbers the changes of the maps
	// Of instances that were launched first, by session.
	instances Map[*instance]
	shares    Map[*shares] // by session, once one was made
	pools     Map[*poolDoc]
	warm      Map[Map[struct{}]] // by application: instances that are nobody's yet
}

// Session is a live session with what only the schedulers need of it.
type Session struct {
	api.Session
	Viewer uint32      // number of the client that may connect
	Codecs []api.Codec // allowed, preferred first
	Token  string      // id of the token that made it
	Key    string      // idempotency key
	Force  bool        // stop without waiting for the application
	Boot   string      // of the last report
	Seq    uint64      // of the last report
	Wait   *Wait       // while it waits for room; nil = it has its place
}

// Held is capacity of a lost node that an ended session may still use there.
type Held struct {
	Session    api.SessionID
	Generation api.Generation
	Pool       api.Pool
	Reserved   uint64
	Parts      api.Parts // beside the pool, all viewers'
}

// Node is an edge with its part of the ledger.
type Node struct {
	api.Node
	Held     []Held
	doc      []byte
	used     []usage
	parts    partsUsed
	sessions Map[struct{}]
	edit     uint64 // the change that copied it and may write it; 0 = none
}

type usage struct {
	pool     api.Pool
	reserved uint64
	sessions int
}

// App is an application with its versions, oldest first; one that was deleted
// has none and keeps its count.
type App struct {
	Name     string
	Last     int
	Versions []*AppVersion
}

// AppVersion is one immutable version of an application.
type AppVersion struct {
	api.App
	doc    []byte
	hidden bool // not published
}

// Token is what one token allows, by its hash.
type Token struct {
	api.Grant
	CreatedAt time.Time
}

// Account is a holder of tokens.
type Account struct {
	Name      string
	CreatedAt time.Time
	tokens    Map[struct{}]
}

// Result answers one command of an entry. Err is an *api.Error that is the same
// on every replica; the other fields depend on the command.
type Result struct {
	Err     error
	Session *api.Session // the session as it is now
	Viewer  uint32       // create, join: number of the client that may connect
	// Duplicate says that a create found the session of an earlier one.
	Duplicate bool
	// Stop says that a reported generation is not wanted.
	Stop bool
	App  *api.App
	// Share is the one that was made or changed.
	Share api.Share
}

// Tx is the state while one entry is applied.
type tx struct {
	State
	now   time.Time
	entry int // version of the entry
}

func (t *tx) maxFinished() int {
	if t.entry < 2 {
		return maxFinishedV1
	}
	return maxFinished
}

// New gives the empty state.
func New() *State { return &State{} }

// Apply gives the state after an entry, and a result for each of its commands.
// An error means that the entry cannot be read: the replica must stop.
func (s *State) Apply(entry []byte) (*State, []Result, error) {
	stamp, commands, err := Decode(entry)
	if err != nil {
		return s, nil, err
	}
	t := &tx{State: *s, entry: int(entry[0])}
	t.last = max(t.last, stamp.UnixNano())
	t.edits++
	t.now = fromNS(t.last)
	results := make([]Result, len(commands))
	for i, c := range commands {
		results[i] = c.apply(t)
	}
	next := t.State
	return &next, results, nil
}

// Now is the latest time the state has seen.
func (s *State) Now() time.Time { return fromNS(s.last) }

// Secrets gives the cluster's keys; empty before the first leader made them.
func (s *State) Secrets() Secrets { return s.secrets }

// Live finds a session that has not ended.
func (s *State) Live(id api.SessionID) (*Session, bool) { return s.sessions.Get(string(id)) }

// Session finds a session, also one that ended within the last 24 hours.
func (s *State) Session(id api.SessionID) (api.Session, bool) {
	if live, ok := s.Live(id); ok {
		return s.shown(live), true
	}
	return s.finished.get(id)
}

// Sessions walks the live sessions.
func (s *State) Sessions() iter.Seq[*Session] {
	return func(yield func(*Session) bool) {
		for _, v := range s.sessions.All() {
			if !yield(v) {
				return
			}
		}
	}
}

// Finished walks the sessions that ended within the last 24 hours.
func (s *State) Finished() iter.Seq[api.Session] { return s.finished.all() }

// LiveCount is how many sessions have not ended.
func (s *State) LiveCount() int { return s.sessions.Len() }

// Node finds a node.
func (s *State) Node(id api.NodeID) (*Node, bool) { return s.nodes.Get(string(id)) }

// Nodes walks the nodes in no useful order.
func (s *State) Nodes() iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		for _, n := range s.nodes.All() {
			if !yield(n) {
				return
			}
		}
	}
}

// Sessions walks the ids of the live sessions that the node hosts.
func (n *Node) Sessions() iter.Seq[api.SessionID] {
	return func(yield func(api.SessionID) bool) {
		for id := range n.sessions.All() {
			if !yield(api.SessionID(id)) {
				return
			}
		}
	}
}

// SessionCount is how many live sessions the node hosts.
func (n *Node) SessionCount() int { return n.sessions.Len() }

// App finds a version of an application; 0 or -1 is the last published one.
func (s *State) App(name string, version int) (api.App, bool) {
	a, ok := s.apps.Get(name)
	if !ok || len(a.Versions) == 0 {
		return api.App{}, false
	}
	if version <= 0 {
		v := defaultOf(a)
		if v == nil {
			return api.App{}, false
		}
		return v.App, true
	}
	for _, v := range a.Versions {
		if v.Version == version {
			return v.App, true
		}
	}
	return api.App{}, false
}

// Apps gives the default version of every application, by name; the newest
// where none is published.
func (s *State) Apps() []api.App {
	var out []api.App
	for _, a := range s.apps.Sorted() {
		if v := defaultOf(a); v != nil {
			out = append(out, v.App)
		} else if n := len(a.Versions); n > 0 {
			out = append(out, a.Versions[n-1].App)
		}
	}
	return out
}

// Token finds a token by the hash of its text.
func (s *State) Token(id string) (*Token, bool) { return s.tokens.Get(id) }

// Accounts gives every account with its tokens, by name.
func (s *State) Accounts() []api.Account {
	var out []api.Account
	for _, a := range s.accounts.Sorted() {
		acc := api.Account{Name: a.Name, CreatedAt: a.CreatedAt, Tokens: []api.Grant{}}
		if p, ok := s.policies.Get(a.Name); ok {
			policy := p.AccountPolicy
			acc.Policy = &policy
		}
		for id := range a.tokens.Sorted() {
			if t, ok := s.tokens.Get(id); ok {
				acc.Tokens = append(acc.Tokens, t.Grant)
			}
		}
		out = append(out, acc)
	}
	return out
}

// Demand gives the recorded cells of refused requests, oldest first.
func (s *State) Demand() []api.DemandCell {
	var out []api.DemandCell
	for _, m := range s.demand {
		out = append(out, m.cells...)
	}
	return out
}

func parseApp(doc []byte) (*AppVersion, error) {
	v := &AppVersion{doc: doc}
	if err := json.Unmarshal(doc, &v.App); err != nil {
		return nil, api.Invalidf("app", "is no application: %v", err)
	}
	return v, nil
}

func parseNode(doc []byte) (*Node, error) {
	n := &Node{doc: doc}
	if err := json.Unmarshal(doc, &n.Node); err != nil {
		return nil, api.Invalidf("node", "is no node: %v", err)
	}
	if n.ID == "" {
		return nil, api.Invalidf("node.id", "is missing")
	}
	return n, nil
}

// ByKey finds the session that an account made under an idempotency key, and
// the number of the client that may connect.
func (s *State) ByKey(account, key string) (api.Session, uint32, bool) {
	id, ok := s.keys.Get(idemKey(account, key))
	if !ok || key == "" {
		return api.Session{}, 0, false
	}
	if live, ok := s.Live(id); ok {
		return s.shown(live), live.Viewer, true
	}
	v, ok := s.finished.get(id)
	return v, 1, ok
}
