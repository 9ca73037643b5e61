package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/coder/websocket"

	"github.com/perigee-cloud/perigee/api"
)

// Signal is one signalling websocket, as a browser would hold it.
type Signal struct{ conn *websocket.Conn }

// Message is a signalling message; sdp and candidate are base64 text.
type Message struct {
	Type          string   `json:"type"`
	Message       string   `json:"message,omitempty"` // of an error
	SDP           string   `json:"sdp,omitempty"`
	Candidate     string   `json:"candidate,omitempty"`
	SDPMid        *string  `json:"sdpMid,omitempty"`
	SDPMLineIndex *uint16  `json:"sdpMLineIndex,omitempty"`
	MaxAPIVersion int      `json:"max_api_version,omitempty"`
	FPS           int      `json:"fps,omitempty"`
	Capabilities  []string `json:"capabilities,omitempty"`
}

// DialSignal opens the websocket whose address a create or join answered.
func DialSignal(ctx context.Context, address string) (*Signal, error) {
	opts := &websocket.DialOptions{CompressionMode: websocket.CompressionDisabled}
	c, res, err := websocket.Dial(ctx, address, opts) //nolint:bodyclose // the library gives a body that needs no closing
	if err != nil {
		if res != nil && res.StatusCode >= http.StatusBadRequest {
			return nil, &api.Error{Code: api.CodeOfHTTP(res.StatusCode), Message: fmt.Sprintf("websocket refused with HTTP %d", res.StatusCode), Err: err}
		}
		return nil, fmt.Errorf("open websocket: %w", err)
	}
	c.SetReadLimit(api.MaxFrame)
	return &Signal{conn: c}, nil
}

// Send writes one message: anything that JSON can hold.
func (s *Signal) Send(ctx context.Context, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	if err := s.conn.Write(ctx, websocket.MessageText, b); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// Receive waits for the next message. An error message is an ordinary one.
func (s *Signal) Receive(ctx context.Context) (Message, error) {
	var m Message
	_, b, err := s.conn.Read(ctx)
	if err != nil {
		return m, fmt.Errorf("receive message: %w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("read message: %w", err)
	}
	return m, nil
}

// Close closes the websocket as the SDK does once it is connected.
func (s *Signal) Close() error {
	if err := s.conn.Close(websocket.StatusNormalClosure, ""); err != nil {
		return fmt.Errorf("close websocket: %w", err)
	}
	return nil
}
