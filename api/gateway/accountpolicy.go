package gateway

import (
	"encoding/json"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

// policyBody is an account's policy, read strictly: a misspelt rule would be none.
type policyBody struct{ policy api.AccountPolicy }

// UnmarshalJSON refuses fields that a policy does not have.
func (b *policyBody) UnmarshalJSON(text []byte) error {
	if err := json.Unmarshal(text, &b.policy); err != nil {
		return err
	}
	if why := strict(text, &api.AccountPolicy{}); why != "" {
		return api.Invalidf("policy", "%s: it has trunk and placement, which has the fields of an application's", strings.TrimPrefix(why, "json: "))
	}
	return b.policy.Check()
}

func (s *Server) getPolicy(c *gin.Context) (reply, error) {
	if err := validAccount(c.Param("name")); err != nil {
		return reply{}, err
	}
	p, err := s.cfg.Accounts.AccountPolicy(c.Request.Context(), c.Param("name"))
	if err != nil {
		return reply{}, err
	}
	return reply{metadata: p}, nil
}

func (s *Server) putPolicy(c *gin.Context) (reply, error) {
	if err := validAccount(c.Param("name")); err != nil {
		return reply{}, err
	}
	var b policyBody
	if err := readBody(c, &b, false); err != nil {
		return reply{}, err
	}
	return reply{metadata: b.policy}, s.cfg.Accounts.SetAccountPolicy(c.Request.Context(), c.Param("name"), &b.policy)
}

func (s *Server) deletePolicy(c *gin.Context) (reply, error) {
	if err := validAccount(c.Param("name")); err != nil {
		return reply{}, err
	}
	return reply{}, s.cfg.Accounts.SetAccountPolicy(c.Request.Context(), c.Param("name"), nil)
}
