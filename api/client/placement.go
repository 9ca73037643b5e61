package client

import (
	"context"

	"github.com/perigee-cloud/perigee/api"
)

// Placement reads why a session runs where it does.
func (c *Client) Placement(ctx context.Context, id api.SessionID) (api.Explanation, error) {
	return get[api.Explanation](ctx, c, sessionPath(id)+"/placement")
}
