package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/perigee-cloud/perigee/api"
)

func sharePath(id string) string { return "1.0/shares/" + url.PathEscape(id) }

// ShareSession lets others take part in a session beside its client.
func (c *Client) ShareSession(ctx context.Context, id api.SessionID, body api.ShareBody) (api.ShareView, error) {
	return post[api.ShareView](ctx, c, sessionPath(id)+"/share", body)
}

// Shares reads a page of shares, without their links, and how many there are in
// all. The query's Account is not used: a token sees its own account's.
func (c *Client) Shares(ctx context.Context, q api.ShareQuery) ([]api.ShareView, int, error) {
	v := url.Values{"recursion": {"true"}, "limit": {strconv.Itoa(q.Limit)}, "offset": {strconv.Itoa(q.Offset)}}
	if q.Session != "" {
		v.Set("session_id", string(q.Session))
	}
	var out []api.ShareView
	total, err := c.call(ctx, http.MethodGet, "1.0/shares", v, nil, &out)
	return out, total, err
}

// Share reads one share with its links.
func (c *Client) Share(ctx context.Context, id string) (api.ShareView, error) {
	return get[api.ShareView](ctx, c, sharePath(id))
}

// ChangeShare changes a share's description or expiry.
func (c *Client) ChangeShare(ctx context.Context, id string, body api.ShareChangeBody) (api.ShareView, error) {
	var out api.ShareView
	_, err := c.call(ctx, http.MethodPatch, sharePath(id), nil, body, &out)
	return out, err
}

// RevokeShare takes a share back: who came by it is cut off.
func (c *Client) RevokeShare(ctx context.Context, id string) error {
	return c.remove(ctx, sharePath(id), nil)
}
