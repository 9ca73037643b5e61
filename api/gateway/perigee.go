package gateway

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

const (
	maxAccountName = 64
	maxTTL         = 10 * 365 * 24 * time.Hour
)

func validAccount(name string) error {
	if !api.ValidID(name) {
		return api.Invalidf("name", "%q must be 1 to %d letters, digits, dashes, underscores or colons", name, maxAccountName)
	}
	return nil
}

// duration is a time in a body: a number of nanoseconds, or text like "720h".
type duration time.Duration

// UnmarshalJSON reads both forms.
func (d *duration) UnmarshalJSON(b []byte) error {
	var n int64
	if json.Unmarshal(b, &n) == nil {
		*d = duration(n)
		return nil
	}
	var text string
	if json.Unmarshal(b, &text) == nil {
		v, err := time.ParseDuration(text)
		*d = duration(v)
		if err == nil {
			return nil
		}
	}
	return api.Invalidf("ttl", "%s must be nanoseconds or a time like \"720h\"", b)
}

// tokenBody is the body that asks for a token.
type tokenBody struct {
	Name   string      `json:"name"` // of the account, when it is made
	Rights []api.Right `json:"rights"`
	App    string      `json:"app"`
	Uses   int         `json:"uses"`
	TTL    duration    `json:"ttl"`
}

// spec checks a token's wish. Without rights it is an account's usual token.
func (b tokenBody) spec(account string) (api.TokenSpec, error) {
	t := api.TokenSpec{Account: account, Rights: b.Rights, App: b.App, Uses: b.Uses, TTL: time.Duration(b.TTL)}
	if err := validAccount(account); err != nil {
		return t, err
	}
	if len(t.Rights) == 0 {
		t.Rights = []api.Right{api.RightSessions, api.RightOnBehalf}
	}
	all := []api.Right{api.RightAdmin, api.RightSessions, api.RightCreate, api.RightJoin, api.RightOnBehalf, api.RightNode}
	for _, r := range t.Rights {
		if !slices.Contains(all, r) {
			return t, api.Invalidf("rights", "%q is not a right; use some of %v", r, all)
		}
	}
	if t.App != "" {
		if err := api.ValidAppName(t.App); err != nil {
			return t, err
		}
	}
	if t.Uses < 0 {
		return t, api.Invalidf("uses", "must be 0 (not counted) or more, got %d", t.Uses)
	}
	if t.TTL < 0 || t.TTL > maxTTL {
		return t, api.Invalidf("ttl", "must be 0 (one year) to %v, got %v", maxTTL, t.TTL)
	}
	return t, nil
}

func (s *Server) listAccounts(c *gin.Context) (reply, error) {
	list, err := s.cfg.Accounts.ListAccounts(c.Request.Context())
	if err != nil {
		return reply{}, err
	}
	if list == nil {
		list = []api.Account{}
	}
	n := len(list)
	return reply{metadata: list, total: &n}, nil
}

// createAccount makes an account with its first token.
func (s *Server) createAccount(c *gin.Context) (reply, error) {
	var b tokenBody
	if err := readBody(c, &b, false); err != nil {
		return reply{}, err
	}
	spec, err := b.spec(b.Name)
	if err != nil {
		return reply{}, err
	}
	list, err := s.cfg.Accounts.ListAccounts(c.Request.Context())
	if err != nil {
		return reply{}, err
	}
	if slices.ContainsFunc(list, func(a api.Account) bool { return a.Name == b.Name }) {
		return reply{}, api.Errorf(api.CodeConflict, "account %q exists; make a further token for it instead", b.Name)
	}
	return s.newToken(c, spec)
}

func (s *Server) createToken(c *gin.Context) (reply, error) {
	var b tokenBody
	if err := readBody(c, &b, true); err != nil {
		return reply{}, err
	}
	spec, err := b.spec(c.Param("name"))
	if err != nil {
		return reply{}, err
	}
	return s.newToken(c, spec)
}

func (s *Server) newToken(c *gin.Context, spec api.TokenSpec) (reply, error) {
	token, g, err := s.cfg.Accounts.CreateToken(c.Request.Context(), spec)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusCreated, metadata: api.TokenAnswer{Token: token, Grant: g}}, nil
}

func (s *Server) revokeToken(c *gin.Context) (reply, error) {
	if err := validAccount(c.Param("name")); err != nil {
		return reply{}, err
	}
	return reply{}, s.cfg.Accounts.RevokeToken(c.Request.Context(), c.Param("name"), c.Param("token"))
}

func (s *Server) deleteAccount(c *gin.Context) (reply, error) {
	if err := validAccount(c.Param("name")); err != nil {
		return reply{}, err
	}
	return reply{}, s.cfg.Accounts.DeleteAccount(c.Request.Context(), c.Param("name"))
}

func (s *Server) listNodes(c *gin.Context) (reply, error) {
	list, err := s.cfg.Nodes.ListNodes(c.Request.Context())
	if err != nil {
		return reply{}, err
	}
	if list == nil {
		list = []api.NodeView{}
	}
	n := len(list)
	return reply{metadata: list, total: &n}, nil
}

// joinNode needs no token of ours to be read: a known key proves itself by its
// signature, an unknown one brings a token. The scheduler checks both.
func (s *Server) joinNode(c *gin.Context) (reply, error) {
	var j api.NodeJoin
	if err := readBody(c, &j, false); err != nil {
		return reply{}, err
	}
	if j.Token == "" {
		token, err := tokenOf(c)
		if err != nil {
			return reply{}, err
		}
		j.Token = token
	}
	remote := ""
	if a, ok := s.clientAddress(c.Request); ok {
		remote = a.String()
	}
	joined, err := s.cfg.Nodes.JoinNode(c.Request.Context(), j, remote)
	if err != nil {
		return reply{}, err
	}
	return reply{metadata: joined}, nil
}

func nodeID(c *gin.Context) (api.NodeID, error) {
	id := c.Param("id")
	if !api.ValidID(id) {
		return "", api.Invalidf("id", "%q is not a node's id", id)
	}
	return api.NodeID(id), nil
}

func (s *Server) drainNode(c *gin.Context) (reply, error) {
	id, err := nodeID(c)
	if err != nil {
		return reply{}, err
	}
	var b struct {
		Drain *bool `json:"drain"`
	}
	if err := readBody(c, &b, false); err != nil {
		return reply{}, err
	}
	if b.Drain == nil {
		return reply{}, api.Invalidf("drain", "is missing: true takes no new sessions, false does again")
	}
	return reply{}, s.cfg.Nodes.SetDrain(c.Request.Context(), id, *b.Drain)
}

func (s *Server) removeNode(c *gin.Context) (reply, error) {
	id, err := nodeID(c)
	if err != nil {
		return reply{}, err
	}
	return reply{}, s.cfg.Nodes.RemoveNode(c.Request.Context(), id)
}

func (s *Server) demand(c *gin.Context) (reply, error) {
	cells, err := s.cfg.Nodes.Demand(c.Request.Context())
	if err != nil {
		return reply{}, err
	}
	if cells == nil {
		cells = []api.DemandCell{}
	}
	n := len(cells)
	return reply{metadata: cells, total: &n}, nil
}
