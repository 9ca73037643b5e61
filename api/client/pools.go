package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/perigee-cloud/perigee/api"
)

// WarmPools lists the pools as they are now, of one application or of all ("").
func (c *Client) WarmPools(ctx context.Context, app string) ([]api.WarmPoolState, error) {
	if app == "" {
		return get[[]api.WarmPoolState](ctx, c, "/1.0/perigee/pools")
	}
	return get[[]api.WarmPoolState](ctx, c, poolsPath(app))
}

// SetWarmPool keeps instances of an application started in a region.
func (c *Client) SetWarmPool(ctx context.Context, p api.WarmPool) error {
	_, err := c.call(ctx, http.MethodPut, poolsPath(p.App)+"/"+url.PathEscape(p.Region), nil, p, nil)
	return err
}

// DropWarmPool keeps none any more.
func (c *Client) DropWarmPool(ctx context.Context, app, region string) error {
	return c.remove(ctx, poolsPath(app)+"/"+url.PathEscape(region), nil)
}

func poolsPath(app string) string {
	return "/1.0/perigee/applications/" + url.PathEscape(app) + "/pools"
}
