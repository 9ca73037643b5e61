package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/perigee-cloud/perigee/api"
)

// Refusals gives the latest requests that were turned away, at most limit; 0 = 100.
func (c *Client) Refusals(ctx context.Context, limit int) ([]api.Explanation, error) {
	var out []api.Explanation
	_, err := c.call(ctx, http.MethodGet, "1.0/perigee/refusals", url.Values{"limit": {strconv.Itoa(limit)}}, nil, &out)
	return out, err
}

// Placement reads why a session runs where it does.
func (c *Client) Placement(ctx context.Context, id api.SessionID) (api.Explanation, error) {
	return get[api.Explanation](ctx, c, sessionPath(id)+"/placement")
}
