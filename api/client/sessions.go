package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/perigee-cloud/perigee/api"
)

const sessionsPath = "1.0/sessions"

func sessionPath(id api.SessionID) string { return sessionsPath + "/" + url.PathEscape(string(id)) }

// CreateSession places a session; it answers before the application runs.
func (c *Client) CreateSession(ctx context.Context, body api.CreateBody) (api.CreateAnswer, error) {
	return post[api.CreateAnswer](ctx, c, sessionsPath, body)
}

// Probes gives the nodes that a client may measure before it creates a session.
// An address of the user, where the caller acts for one; "" is the caller's own.
func (c *Client) Probes(ctx context.Context, clientAddress string) ([]api.ProbeTarget, error) {
	v := url.Values{}
	if clientAddress != "" {
		v.Set("client_address", clientAddress)
	}
	var out []api.ProbeTarget
	_, err := c.call(ctx, http.MethodGet, "1.0/probes", v, nil, &out)
	return out, err
}

// JoinSession takes a running session over from its present client.
func (c *Client) JoinSession(ctx context.Context, id api.SessionID, body api.JoinBody) (api.JoinAnswer, error) {
	return post[api.JoinAnswer](ctx, c, sessionPath(id)+"/join", body)
}

// Session reads one session.
func (c *Client) Session(ctx context.Context, id api.SessionID) (api.SessionView, error) {
	return get[api.SessionView](ctx, c, sessionPath(id))
}

// Sessions reads a page of sessions and how many there are in all. The query's
// Account is not used: a token sees its own account's sessions.
func (c *Client) Sessions(ctx context.Context, q api.SessionQuery) ([]api.SessionView, int, error) {
	v := queryOf(q)
	v.Set("recursion", "true")
	var out []api.SessionView
	total, err := c.call(ctx, http.MethodGet, sessionsPath, v, nil, &out)
	return out, total, err
}

// SessionIDs reads a page of sessions' ids and how many there are in all.
func (c *Client) SessionIDs(ctx context.Context, q api.SessionQuery) ([]api.SessionID, int, error) {
	var out []api.SessionID
	total, err := c.call(ctx, http.MethodGet, sessionsPath, queryOf(q), nil, &out)
	return out, total, err
}

func queryOf(q api.SessionQuery) url.Values {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" && value != "0" {
			v.Set(name, value)
		}
	}
	set("status", string(q.Status))
	set("limit", strconv.Itoa(q.Limit))
	set("offset", strconv.Itoa(q.Offset))
	set("sort_by", q.SortBy)
	set("sort_order", q.SortOrder)
	return v
}

// End says how sessions are to be deleted.
type End struct {
	Force bool // do not wait for the application
	Sync  bool // answer when it has ended
}

func (e End) query() url.Values {
	v := url.Values{}
	if e.Force {
		v.Set("force", "true")
	}
	if e.Sync {
		v.Set("sync", "true")
	}
	return v
}

// DeleteSession ends one session.
func (c *Client) DeleteSession(ctx context.Context, id api.SessionID, e End) error {
	return c.remove(ctx, sessionPath(id), e.query())
}

// DeleteSessions ends many; the answer says which could not be.
func (c *Client) DeleteSessions(ctx context.Context, ids []api.SessionID, e End) (api.DeleteAnswer, error) {
	var out api.DeleteAnswer
	body := struct {
		IDs []api.SessionID `json:"ids"`
	}{ids}
	_, err := c.call(ctx, http.MethodDelete, sessionsPath, e.query(), body, &out)
	return out, err
}
