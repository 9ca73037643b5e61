// Package client is the Go client of Perigee's HTTP API, over the network with
// a token or over a scheduler's admin socket.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// Config says where the API is. Either URL or Socket is needed.
type Config struct {
	// URL is the base of the API, http or https.
	URL string
	// Token goes with each request to URL.
	Token string
	// Socket is the path of a scheduler's admin socket; it needs no token.
	Socket string
	// Timeout bounds each call, 0 = 15 s; one that waits for sessions to end has 60 s.
	Timeout time.Duration
	// CA is a PEM file of authorities that are trusted beside the system's; "" = none.
	CA string
	// Transport replaces the default one; nil is the default.
	Transport http.RoundTripper
}

const (
	defaultTimeout = 15 * time.Second
	syncTimeout    = time.Minute
	maxAnswer      = 64 << 20 // bytes; a list of 100,000 sessions is 50 MB
)

// Client calls the API. Its methods may be used by many goroutines; their
// errors are *api.Error when the API answered one.
type Client struct {
	base    *url.URL
	token   string
	timeout time.Duration
	http    *http.Client
}

// New checks a configuration; it connects to nothing.
func New(cfg Config) (*Client, error) {
	c := &Client{token: cfg.Token, timeout: cfg.Timeout, http: &http.Client{Transport: cfg.Transport}}
	if c.timeout <= 0 {
		c.timeout = defaultTimeout
	}
	if (cfg.URL == "") == (cfg.Socket == "") {
		return nil, errors.New("make client: give either a URL or a socket")
	}
	if cfg.Socket != "" {
		c.base = &url.URL{Scheme: "http", Host: "localhost"}
		if cfg.Transport == nil {
			c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", cfg.Socket)
			}}
		}
		return c, nil
	}
	u, err := url.Parse(strings.TrimRight(cfg.URL, "/"))
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("make client: %q must be like https://stream.example.com", cfg.URL)
	}
	c.base = u
	if cfg.Transport == nil {
		// Its own, so that closing it leaves other users' connections alone.
		t, ok := http.DefaultTransport.(*http.Transport)
		if !ok {
			return c, nil
		}
		t = t.Clone()
		roots, err := Roots(cfg.CA)
		if err != nil {
			return nil, err
		}
		if roots != nil {
			t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
		}
		c.http.Transport = t
	}
	return c, nil
}

// Close frees idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// call sends one request and decodes the envelope's metadata into out, which
// may be nil. It gives the envelope's total size, 0 where there is none.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, body, out any) (int, error) {
	limit := c.timeout
	if query.Get("sync") == "true" {
		limit = max(limit, syncTimeout)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, fmt.Errorf("write request: %w", err)
		}
		payload = bytes.NewReader(b)
	}
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), payload)
	if err != nil {
		return 0, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Macaroon root="+c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return 0, fmt.Errorf("call %s %s: %w", method, path, err)
	}
	defer func() { _ = res.Body.Close() }() // read to its end below
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return 0, fmt.Errorf("read answer of %s %s: %w", method, path, err)
	}
	env := api.Envelope{Metadata: out}
	if err := json.Unmarshal(b, &env); err != nil {
		return 0, fmt.Errorf("read answer of %s %s (HTTP %d): not an answer of Perigee: %w", method, path, res.StatusCode, err)
	}
	if env.Type == api.EnvelopeError || env.Status != api.EnvelopeSuccess {
		return 0, asError(res.StatusCode, env)
	}
	if env.TotalSize != nil {
		return *env.TotalSize, nil
	}
	return 0, nil
}

// asError makes the error that an envelope tells of.
func asError(status int, env api.Envelope) *api.Error {
	e := &api.Error{Message: env.Error}
	if d := env.Perigee; d != nil {
		e.Code, e.Field, e.Refusals = d.Code, d.Field, d.Refusals
		if e.Field != "" {
			e.Message = strings.TrimPrefix(e.Message, e.Field+": ")
		}
	}
	if e.Code == "" {
		e.Code = api.CodeOfHTTP(status)
	}
	if e.Message == "" {
		e.Message = fmt.Sprintf("HTTP status %d", status)
	}
	return e
}

// get and post are the two shapes that most calls have.
func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var out T
	_, err := c.call(ctx, http.MethodGet, path, nil, nil, &out)
	return out, err
}

func post[T any](ctx context.Context, c *Client, path string, body any) (T, error) {
	var out T
	_, err := c.call(ctx, http.MethodPost, path, nil, body, &out)
	return out, err
}

func (c *Client) remove(ctx context.Context, path string, query url.Values) error {
	_, err := c.call(ctx, http.MethodDelete, path, query, nil, nil)
	return err
}
