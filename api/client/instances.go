package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

const (
	instancesPath  = "1.0/instances"
	operationsPath = "1.0/operations"
)

// LaunchInstance launches an instance and gives the operation that goes on.
func (c *Client) LaunchInstance(ctx context.Context, b api.LaunchBody) (api.OperationView, error) {
	return post[api.OperationView](ctx, c, instancesPath, b)
}

// Instances lists instances and says how many there are in all. The account of
// q is the token's own.
func (c *Client) Instances(ctx context.Context, q api.InstanceQuery) ([]api.InstanceView, int, error) {
	v := url.Values{"recursion": {"true"}}
	for name, text := range map[string]string{"app_name": q.App, "node": string(q.Node), "tags": q.Tag} {
		if text != "" {
			v.Set(name, text)
		}
	}
	if q.Status != nil {
		v.Set("status", q.Status.String())
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Offset > 0 {
		v.Set("offset", strconv.Itoa(q.Offset))
	}
	var out []api.InstanceView
	n, err := c.call(ctx, http.MethodGet, instancesPath, v, nil, &out)
	return out, n, err
}

// Instance shows an instance by its id or name.
func (c *Client) Instance(ctx context.Context, id string) (api.InstanceView, error) {
	return get[api.InstanceView](ctx, c, instancesPath+"/"+url.PathEscape(id))
}

// ChangeInstance changes an instance; what the body does not say stays.
func (c *Client) ChangeInstance(ctx context.Context, id string, b api.InstanceChangeBody) (api.InstanceView, error) {
	var v api.InstanceView
	_, err := c.call(ctx, http.MethodPatch, instancesPath+"/"+url.PathEscape(id), nil, b, &v)
	return v, err
}

// DeleteInstance ends an instance and gives the operation that goes on.
func (c *Client) DeleteInstance(ctx context.Context, id string, force bool) (api.OperationView, error) {
	q := url.Values{}
	if force {
		q.Set("force", "true")
	}
	var out api.OperationView
	_, err := c.call(ctx, http.MethodDelete, instancesPath+"/"+url.PathEscape(id), q, nil, &out)
	return out, err
}

// WaitOperation waits until an operation is over. Its failure is no error of
// the call: the operation says it.
func (c *Client) WaitOperation(ctx context.Context, id string) (api.OperationView, error) {
	for {
		o, err := c.waitOnce(ctx, id)
		if err != nil || o.StatusCode != api.OperationRunning || ctx.Err() != nil {
			return o, err
		}
	}
}

func (c *Client) waitOnce(ctx context.Context, id string) (api.OperationView, error) {
	const most = 10 * time.Second // under every timeout on the way
	var o api.OperationView
	_, err := c.call(ctx, http.MethodGet, operationsPath+"/"+url.PathEscape(id)+"/wait",
		url.Values{"timeout": {strconv.Itoa(int(min(most, c.timeout/2).Seconds()))}}, nil, &o)
	return o, err
}

// Log copies what an instance's application wrote to w: its last tail bytes,
// all when that is 0, and with follow what comes until the instance has ended.
func (c *Client) Log(ctx context.Context, id string, tail int, follow bool, w io.Writer) error {
	u := c.base.JoinPath(instancesPath, url.PathEscape(id), "logs", "app.log")
	q := url.Values{}
	if tail > 0 {
		q.Set("tail", strconv.Itoa(tail))
	}
	if follow {
		q.Set("follow", "true")
	}
	u.RawQuery = q.Encode()
	if !follow {
		limited, cancel := context.WithTimeout(ctx, c.timeout)
		defer cancel()
		ctx = limited
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Macaroon root="+c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("read log of %s: %w", id, err)
	}
	defer func() { _ = res.Body.Close() }() // only read
	if res.StatusCode != http.StatusOK {
		var env api.Envelope
		if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&env); err != nil {
			return fmt.Errorf("read log of %s: HTTP status %d", id, res.StatusCode)
		}
		return asError(res.StatusCode, env)
	}
	if _, err := io.Copy(w, res.Body); err != nil {
		return fmt.Errorf("read log of %s: %w", id, err)
	}
	return nil
}
