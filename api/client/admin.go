package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/perigee-cloud/perigee/api"
)

const (
	applicationsPath = "1.0/applications"
	accountsPath     = "1.0/perigee/accounts"
	nodesPath        = "1.0/perigee/nodes"
)

// AccountPolicy gives an account's own policy.
func (c *Client) AccountPolicy(ctx context.Context, name string) (api.AccountPolicy, error) {
	return get[api.AccountPolicy](ctx, c, policyPath(name))
}

// SetAccountPolicy sets it; nil takes it away.
func (c *Client) SetAccountPolicy(ctx context.Context, name string, p *api.AccountPolicy) error {
	if p == nil {
		return c.remove(ctx, policyPath(name), nil)
	}
	_, err := c.call(ctx, http.MethodPut, policyPath(name), nil, p, nil)
	return err
}

func policyPath(name string) string { return accountsPath + "/" + url.PathEscape(name) + "/policy" }

// Applications lists what can be streamed.
func (c *Client) Applications(ctx context.Context) ([]api.AppView, error) {
	return get[[]api.AppView](ctx, c, applicationsPath)
}

// PutApplication adds an application, or a new version of one.
func (c *Client) PutApplication(ctx context.Context, a api.App) (api.AppView, error) {
	return post[api.AppView](ctx, c, applicationsPath, a)
}

// StageApplication adds a version that is not published.
func (c *Client) StageApplication(ctx context.Context, a api.App) (api.AppView, error) {
	var out api.AppView
	_, err := c.call(ctx, http.MethodPost, applicationsPath, url.Values{"publish": {"false"}}, a, &out)
	return out, err
}

// Application shows one application with its versions.
func (c *Client) Application(ctx context.Context, name string) (api.AppView, error) {
	return get[api.AppView](ctx, c, applicationsPath+"/"+url.PathEscape(name))
}

func versionPath(name string, version int) string {
	return applicationsPath + "/" + url.PathEscape(name) + "/" + strconv.Itoa(version)
}

// Manifest gives a version of an application as YAML.
func (c *Client) Manifest(ctx context.Context, name string, version int) (string, error) {
	v, err := get[api.ManifestView](ctx, c, versionPath(name, version)+"/manifest")
	return v.Manifest, err
}

// PublishVersion publishes a version, or takes it back.
func (c *Client) PublishVersion(ctx context.Context, name string, version int, published bool) (api.VersionView, error) {
	var out api.VersionView
	_, err := c.call(ctx, http.MethodPatch, versionPath(name, version), nil, api.PublishBody{Published: &published}, &out)
	return out, err
}

// DeleteVersion removes a version that nobody runs.
func (c *Client) DeleteVersion(ctx context.Context, name string, version int) error {
	return c.remove(ctx, versionPath(name, version), nil)
}

// DeleteApplication removes an application; its sessions go on.
func (c *Client) DeleteApplication(ctx context.Context, name string) error {
	return c.remove(ctx, applicationsPath+"/"+url.PathEscape(name), nil)
}

// Regions lists the regions that have nodes.
func (c *Client) Regions(ctx context.Context) ([]string, error) {
	views, err := get[[]api.RegionView](ctx, c, "1.0/regions")
	out := make([]string, len(views))
	for i, v := range views {
		out[i] = v.Name
	}
	return out, err
}

// Status asks how the schedulers are.
func (c *Client) Status(ctx context.Context) (api.StatusView, error) {
	return get[api.StatusView](ctx, c, "1.0/status")
}

// Accounts lists the accounts with their tokens' ids.
func (c *Client) Accounts(ctx context.Context) ([]api.Account, error) {
	return get[[]api.Account](ctx, c, accountsPath)
}

// CreateAccount makes an account and its first token; without rights it is the
// usual token of an integrator.
func (c *Client) CreateAccount(ctx context.Context, t api.TokenSpec) (api.TokenAnswer, error) {
	body := struct {
		Name string `json:"name"`
		api.TokenSpec
	}{t.Account, t}
	return post[api.TokenAnswer](ctx, c, accountsPath, body)
}

// CreateToken makes a further token of an account.
func (c *Client) CreateToken(ctx context.Context, t api.TokenSpec) (api.TokenAnswer, error) {
	return post[api.TokenAnswer](ctx, c, accountsPath+"/"+url.PathEscape(t.Account)+"/tokens", t)
}

// RevokeToken takes a token back by its id.
func (c *Client) RevokeToken(ctx context.Context, account, tokenID string) error {
	return c.remove(ctx, accountsPath+"/"+url.PathEscape(account)+"/tokens/"+url.PathEscape(tokenID), nil)
}

// DeleteAccount removes an account and all its tokens.
func (c *Client) DeleteAccount(ctx context.Context, name string) error {
	return c.remove(ctx, accountsPath+"/"+url.PathEscape(name), nil)
}

// Nodes lists the edges with what is known of them now.
func (c *Client) Nodes(ctx context.Context) ([]api.NodeView, error) {
	return get[[]api.NodeView](ctx, c, nodesPath)
}

// JoinNode is what an edge's daemon calls when it starts.
func (c *Client) JoinNode(ctx context.Context, j api.NodeJoin) (api.NodeJoined, error) {
	return post[api.NodeJoined](ctx, c, nodesPath+"/join", j)
}

// SetDrain keeps new sessions from a node, or lets them come again.
func (c *Client) SetDrain(ctx context.Context, id api.NodeID, drain bool) error {
	body := struct {
		Drain bool `json:"drain"`
	}{drain}
	_, err := c.call(ctx, http.MethodPost, nodesPath+"/"+url.PathEscape(string(id))+"/drain", nil, body, nil)
	return err
}

// RemoveNode forgets a node.
func (c *Client) RemoveNode(ctx context.Context, id api.NodeID) error {
	return c.remove(ctx, nodesPath+"/"+url.PathEscape(string(id)), nil)
}

// Demand reads what was turned away, in cells of one minute.
func (c *Client) Demand(ctx context.Context) ([]api.DemandCell, error) {
	return get[[]api.DemandCell](ctx, c, "1.0/perigee/demand")
}
