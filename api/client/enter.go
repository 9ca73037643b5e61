package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	"github.com/coder/websocket"

	"github.com/perigee-cloud/perigee/api"
)

// ExecIO is where a command in an instance reads and writes.
type ExecIO struct {
	Input  io.Reader // nil = none
	Output io.Writer
	Errors io.Writer // of a command without a terminal
	// Sizes of the terminal in characters, width and height, as they change.
	Sizes <-chan [2]int
}

// Exec runs a command in an instance and gives its status. ctx ends it. An
// Input that is a terminal or a pipe may be read once more after the end.
func (c *Client) Exec(ctx context.Context, id string, r api.EnterRequest, with ExecIO) (int, error) {
	r, err := execRequest(r)
	if err != nil {
		return -1, err
	}
	conn, err := c.socket(ctx, instancesPath, url.PathEscape(id), "exec")
	if err != nil {
		return -1, err
	}
	defer func() { _ = conn.CloseNow() }() // closed below where all went well
	conn.SetReadLimit(api.MaxFrame)
	b, err := json.Marshal(r)
	if err == nil {
		err = conn.Write(ctx, websocket.MessageText, b)
	}
	if err != nil {
		return -1, fmt.Errorf("run in %s: %w", id, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var sizes sync.WaitGroup
	defer sizes.Wait()
	defer cancel()
	go feedExec(ctx, conn, with.Input) // ends with the input or at its next part
	sizes.Go(func() { resizeExec(ctx, conn, with.Sizes) })
	return readExec(ctx, conn, id, with)
}

func execRequest(r api.EnterRequest) (api.EnterRequest, error) {
	r.Op = api.EnterExec
	return r.Normalize()
}

func readExec(ctx context.Context, conn *websocket.Conn, id string, with ExecIO) (int, error) {
	for {
		_, b, err := conn.Read(ctx)
		if err != nil {
			return -1, fmt.Errorf("run in %s: the connection broke: %w", id, err)
		}
		if m, ok := api.ParseEnterControl(b); ok {
			if m.Type == api.EnterEnded {
				_ = conn.Close(websocket.StatusNormalClosure, "") // all is said
				return m.Exit, m.Err()
			}
			continue
		}
		w := with.Output
		if len(b) > 0 && b[0] == api.EnterErrors {
			w = with.Errors
		}
		if w == nil || len(b) == 0 {
			continue
		}
		if _, err := w.Write(b[1:]); err != nil {
			return -1, fmt.Errorf("write what the command says: %w", err)
		}
	}
}

func feedExec(ctx context.Context, conn *websocket.Conn, in io.Reader) {
	buf := make([]byte, 1+api.EnterPiece)
	buf[0] = api.EnterInput
	for in != nil {
		n, err := in.Read(buf[1:])
		if n > 0 && conn.Write(ctx, websocket.MessageBinary, buf[:1+n]) != nil {
			return
		}
		if err != nil {
			break
		}
	}
	_ = conn.Write(ctx, websocket.MessageText, api.EnterControl{Type: api.EnterEnd}.Frame()) // it has ended
}

func resizeExec(ctx context.Context, conn *websocket.Conn, sizes <-chan [2]int) {
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-sizes:
			if !ok || conn.Write(ctx, websocket.MessageText, api.EnterControl{Type: api.EnterResize, Width: s[0], Height: s[1]}.Frame()) != nil {
				return
			}
		}
	}
}

// socket opens a websocket of the API; a refusal is the API's own error.
func (c *Client) socket(ctx context.Context, path ...string) (*websocket.Conn, error) {
	opts := &websocket.DialOptions{CompressionMode: websocket.CompressionDisabled, HTTPClient: c.http, HTTPHeader: http.Header{}}
	if c.token != "" {
		opts.HTTPHeader.Set("Authorization", "Macaroon root="+c.token)
	}
	limited, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	conn, res, err := websocket.Dial(limited, c.base.JoinPath(path...).String(), opts)
	if err == nil {
		return conn, nil
	}
	if res == nil || res.StatusCode < http.StatusBadRequest {
		return nil, fmt.Errorf("open websocket: %w", err)
	}
	defer func() { _ = res.Body.Close() }() // only read
	return nil, readError(res)
}

func readError(res *http.Response) error {
	var env api.Envelope
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&env); err != nil {
		return &api.Error{Code: api.CodeOfHTTP(res.StatusCode), Message: fmt.Sprintf("HTTP status %d", res.StatusCode)}
	}
	return asError(res.StatusCode, env)
}

// file makes a request for a file of an instance.
func (c *Client) file(ctx context.Context, method, id string, q url.Values, body io.Reader) (*http.Request, error) {
	u := c.base.JoinPath(instancesPath, url.PathEscape(id), "files")
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Macaroon root="+c.token)
	}
	return req, nil
}

// PushFile writes a file into an instance: whole, or not at all. A path that is
// not absolute begins at the application's home; a size below 0 is not known;
// mode 0 is 0644.
func (c *Client) PushFile(ctx context.Context, id, path string, mode uint32, size int64, content io.Reader) (api.FileView, error) {
	var v api.FileView
	q := url.Values{"path": {path}}
	if mode != 0 {
		q.Set("mode", strconv.FormatUint(uint64(mode), 8))
	}
	req, err := c.file(ctx, http.MethodPut, id, q, io.NopCloser(content))
	if err != nil {
		return v, err
	}
	req.ContentLength = size
	if size == 0 {
		req.Body = http.NoBody
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Expect", "100-continue") // what is refused is not sent
	res, err := c.http.Do(req)
	if err != nil {
		return v, fmt.Errorf("push to %s: %w", id, err)
	}
	defer func() { _ = res.Body.Close() }() // only read
	if res.StatusCode != http.StatusOK {
		return v, readError(res)
	}
	if err := json.NewDecoder(res.Body).Decode(&api.Envelope{Metadata: &v}); err != nil {
		return v, fmt.Errorf("read answer of push to %s: %w", id, err)
	}
	return v, nil
}

// PullFile opens a file of an instance; the caller closes it. Its size is known,
// and a transfer that breaks is an error of the reader.
func (c *Client) PullFile(ctx context.Context, id, path string) (io.ReadCloser, api.FileView, error) {
	var v api.FileView
	req, err := c.file(ctx, http.MethodGet, id, url.Values{"path": {path}}, nil)
	if err != nil {
		return nil, v, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, v, fmt.Errorf("pull from %s: %w", id, err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, v, errors.Join(readError(res), res.Body.Close())
	}
	return res.Body, api.FileView{Path: path, Size: res.ContentLength, Mode: res.Header.Get("Perigee-File-Mode")}, nil
}
