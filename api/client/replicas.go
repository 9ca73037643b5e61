package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/perigee-cloud/perigee/api"
)

const (
	replicasPath = "1.0/perigee/replicas"
	snapshotPath = "1.0/perigee/snapshot"
)

// Replicas lists the schedulers.
func (c *Client) Replicas(ctx context.Context) ([]api.ReplicaView, error) {
	return get[[]api.ReplicaView](ctx, c, replicasPath)
}

// AddReplica asks to let a new scheduler in.
func (c *Client) AddReplica(ctx context.Context, r api.Replica) error {
	_, err := c.call(ctx, http.MethodPost, replicasPath, nil, api.ReplicaJoin{Replica: r}, nil)
	return err
}

// RemoveReplica takes a scheduler out for good.
func (c *Client) RemoveReplica(ctx context.Context, id string) error {
	return c.remove(ctx, replicasPath+"/"+url.PathEscape(id), nil)
}

// TransferLeadership hands the leadership to a scheduler; "" to any.
func (c *Client) TransferLeadership(ctx context.Context, to string) error {
	body := struct {
		Replica string `json:"replica"`
	}{to}
	_, err := c.call(ctx, http.MethodPost, "1.0/perigee/leader", nil, body, nil)
	return err
}

// SaveSnapshot writes the whole state to w. It is as secret as the cluster's keys.
func (c *Client) SaveSnapshot(ctx context.Context, w io.Writer) error {
	res, err := c.stream(ctx, http.MethodGet, nil)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // read to its end below
	if _, err := io.Copy(w, res.Body); err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	return nil
}

// RestoreSnapshot replaces the whole state by a saved one.
func (c *Client) RestoreSnapshot(ctx context.Context, from io.Reader) error {
	res, err := c.stream(ctx, http.MethodPost, from)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// stream sends or fetches a snapshot; ctx alone bounds how long it takes.
func (c *Client) stream(ctx context.Context, method string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base.JoinPath(snapshotPath).String(), body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Macaroon root="+c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call %s %s: %w", method, snapshotPath, err)
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	defer func() { _ = res.Body.Close() }() // read below
	var env api.Envelope
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&env); err != nil {
		return nil, fmt.Errorf("read answer of %s %s (HTTP %d): not an answer of Perigee: %w", method, snapshotPath, res.StatusCode, err)
	}
	return nil, asError(res.StatusCode, env)
}
