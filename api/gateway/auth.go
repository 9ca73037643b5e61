package gateway

import (
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

// localAccount owns the sessions made on the admin socket.
const localAccount = "admin"

// tokenOf finds the token of a request: "Authorization: Macaroon root=X" (any
// case, quotes allowed), "Bearer X", or "?api_token=X".
func tokenOf(c *gin.Context) (string, error) {
	h := strings.TrimSpace(c.GetHeader("Authorization"))
	if h == "" {
		if t := c.Query("api_token"); t != "" {
			return t, nil
		}
		return "", nil
	}
	scheme, rest, _ := strings.Cut(h, " ")
	rest = strings.TrimSpace(rest)
	switch strings.ToLower(scheme) {
	case "bearer":
	case "macaroon":
		if len(rest) < 5 || !strings.EqualFold(rest[:5], "root=") {
			return "", api.Errorf(api.CodeUnauthorized, "Authorization must be \"Macaroon root=<token>\"")
		}
		rest = strings.Trim(rest[5:], "\"")
	default:
		return "", api.Errorf(api.CodeUnauthorized, "%q is not a way to log in; use \"Macaroon root=<token>\" or \"Bearer <token>\"", scheme)
	}
	if rest == "" {
		return "", api.Errorf(api.CodeUnauthorized, "the token in Authorization is empty")
	}
	return rest, nil
}

// authenticate finds what the caller may do; ok is false for one without a token.
func (s *Server) authenticate(c *gin.Context) (g api.Grant, ok bool, err error) {
	if ofRequest(c).admin {
		return api.Grant{Account: localAccount, Rights: []api.Right{api.RightAdmin}, Uses: -1}, true, nil
	}
	token, err := tokenOf(c)
	if err != nil || token == "" {
		return api.Grant{}, false, err
	}
	g, err = s.cfg.Accounts.Authenticate(c.Request.Context(), token)
	return g, err == nil, err
}

// authorize wants a token with one of the rights and keeps its grant.
func (s *Server) authorize(c *gin.Context, rights []api.Right) error {
	g, ok, err := s.authenticate(c)
	if err != nil {
		return err
	}
	if !ok {
		return api.Errorf(api.CodeUnauthorized, "a token is needed: send \"Authorization: Macaroon root=<token>\"; \"perigee account create\" makes one")
	}
	for _, r := range rights {
		if g.Can(r) {
			ofRequest(c).grant = g
			return nil
		}
	}
	return api.Errorf(api.CodeForbidden, "this token does not have the right %q", rights[0])
}

func grantOf(c *gin.Context) api.Grant { return ofRequest(c).grant }

// scope is the account whose sessions a grant sees; "" sees all.
func scope(g api.Grant) string {
	if g.Can(api.RightAdmin) {
		return ""
	}
	return g.Account
}

// sees says whether a grant may know of a session at all.
func sees(g api.Grant, sess api.Session) bool {
	if g.Can(api.RightAdmin) {
		return true
	}
	return sess.Account == g.Account && (g.App == "" || g.App == sess.App)
}
