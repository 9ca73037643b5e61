package scheduler

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

const (
	tokenBytes = 24
	defaultTTL = 365 * 24 * time.Hour
	maxTTL     = 20 * defaultTTL
	maxUses    = 1 << 30
	maxToken   = 512 // bytes of a token that is looked at
)

func tokenID(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// Authenticate gives what a token allows; CodeUnauthorized when it is unknown,
// expired or revoked. A token whose uses are spent still lets its holder join.
func (s *Server) Authenticate(ctx context.Context, token string) (api.Grant, error) {
	if err := s.serving(); err != nil {
		return api.Grant{}, err
	}
	if token == "" {
		return api.Grant{}, api.Errorf(api.CodeUnauthorized, "a token is needed: make one with perigee account create")
	}
	if len(token) > maxToken {
		return api.Grant{}, api.Errorf(api.CodeUnauthorized, "the token is unknown or was revoked")
	}
	var t *state.Token
	if !s.sure(ctx, func() (ok bool) { t, ok = s.root().Token(tokenID(token)); return ok }) {
		return api.Grant{}, api.Errorf(api.CodeUnauthorized, "the token is unknown or was revoked")
	}
	if s.now().After(t.Expires) {
		return api.Grant{}, api.Errorf(api.CodeUnauthorized, "the token expired at %s", t.Expires.Format(time.RFC3339))
	}
	return t.Grant, nil
}

// CreateToken makes a token, and its account where there is none, and shows the
// secret for the only time: the state keeps its hash.
func (s *Server) CreateToken(ctx context.Context, spec api.TokenSpec) (string, api.Grant, error) {
	if err := checkToken(&spec); err != nil {
		return "", api.Grant{}, err
	}
	var random [tokenBytes]byte
	_, _ = rand.Read(random[:]) // never fails
	token := "pgt_" + base64.RawURLEncoding.EncodeToString(random[:])
	g, err := onLeader(ctx, s, "token.put", tokenCall{ID: tokenID(token), Spec: spec}, s.putToken)
	if err != nil {
		return "", api.Grant{}, err
	}
	return token, g, nil
}

// tokenCall names a token by its hash, which stays the same when it is tried again.
type tokenCall struct {
	ID   string
	Spec api.TokenSpec
}

func (s *Server) putToken(ctx context.Context, c tokenCall) (api.Grant, error) {
	spec := c.Spec
	if t, made := s.root().Token(c.ID); made {
		return t.Grant, nil
	}
	if spec.App != "" {
		if _, ok := s.root().App(spec.App, 0); !ok {
			return api.Grant{}, api.Errorf(api.CodeNotFound, "application %q is not in the catalogue", spec.App)
		}
	}
	put := &state.PutToken{
		Account: spec.Account, ID: c.ID, Rights: spec.Rights, App: spec.App,
		Expires: s.now().Add(spec.TTL).UTC().Truncate(time.Second), Uses: spec.Uses,
	}
	if put.Uses == 0 {
		put.Uses = -1
	}
	if _, err := s.propose(ctx, put); err != nil {
		return api.Grant{}, err
	}
	s.cfg.Log.Info("token made", "account", put.Account, "rights", put.Rights, "uses", put.Uses, "expires", put.Expires)
	return api.Grant{Account: put.Account, TokenID: put.ID, Rights: put.Rights, App: put.App, Expires: put.Expires, Uses: put.Uses}, nil
}

func checkToken(t *api.TokenSpec) error {
	if !api.ValidID(t.Account) {
		return api.Invalidf("account", "must be 1 to 64 characters of [a-zA-Z0-9-_:], got %q", t.Account)
	}
	if len(t.Rights) == 0 {
		t.Rights = []api.Right{api.RightSessions, api.RightOnBehalf}
	}
	known := []api.Right{api.RightAdmin, api.RightSessions, api.RightCreate, api.RightJoin, api.RightOnBehalf, api.RightNode}
	for _, r := range t.Rights {
		if !slices.Contains(known, r) {
			return api.Invalidf("rights", "%q is not a right; use %v", r, known)
		}
	}
	t.Rights = slices.Compact(slices.Sorted(slices.Values(t.Rights)))
	if t.Uses < 0 || t.Uses > maxUses {
		return api.Invalidf("uses", "must be 0 (not counted) to %d, got %d", maxUses, t.Uses)
	}
	if t.TTL == 0 {
		t.TTL = defaultTTL
	}
	if t.TTL < time.Second || t.TTL > maxTTL {
		return api.Invalidf("ttl", "must be 1 s to %d days, got %s", maxTTL/(24*time.Hour), t.TTL)
	}
	return nil
}

// RevokeToken takes a token's id back; an empty id all tokens of the account.
func (s *Server) RevokeToken(ctx context.Context, account, id string) error {
	_, err := onLeader(ctx, s, "token.revoke", [2]string{account, id}, s.revokeToken)
	return err
}

func (s *Server) revokeToken(ctx context.Context, c [2]string) (nothing, error) {
	if _, err := s.propose(ctx, &state.RevokeToken{Account: c[0], ID: c[1]}); err != nil {
		return nothing{}, err
	}
	s.cfg.Log.Info("token revoked", "account", c[0], "all", c[1] == "")
	return nothing{}, nil
}

// DeleteAccount removes an account and its tokens; its sessions go on.
func (s *Server) DeleteAccount(ctx context.Context, name string) error {
	_, err := onLeader(ctx, s, "account.delete", name, s.deleteAccount)
	return err
}

func (s *Server) deleteAccount(ctx context.Context, name string) (nothing, error) {
	if _, err := s.propose(ctx, &state.DeleteAccount{Name: name}); err != nil {
		return nothing{}, err
	}
	s.cfg.Log.Info("account deleted", "account", name)
	return nothing{}, nil
}

// ListAccounts gives every account with its tokens, by name.
func (s *Server) ListAccounts(context.Context) ([]api.Account, error) {
	if err := s.serving(); err != nil {
		return nil, err
	}
	return append([]api.Account{}, s.root().Accounts()...), nil
}
