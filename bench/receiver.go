package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
)

// receiver is a viewer without a browser: it takes the pictures' packets and
// notes when each picture begins.
type receiver struct {
	clock
	pc *webrtc.PeerConnection
	ws *client.Signal
}

// watch joins a session and returns when its first picture has come.
func watch(ctx context.Context, c *client.Client, id api.SessionID) (*receiver, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	a, err := c.JoinSession(ctx, id, api.JoinBody{})
	if err != nil {
		return nil, err
	}
	return watchURL(ctx, a.URL)
}

// watchURL takes part by a session's websocket and returns when its first picture
// has come.
func watchURL(ctx context.Context, url string) (_ *receiver, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r := &receiver{}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.pc, err = webrtc.NewPeerConnection(webrtc.Configuration{}); err != nil {
		return nil, fmt.Errorf("make peer connection: %w", err)
	}
	first := make(chan struct{})
	r.pc.OnTrack(func(t *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
		if t.Kind() != webrtc.RTPCodecTypeVideo {
			return
		}
		stamp, begun := uint32(0), false
		for {
			p, _, err := t.ReadRTP()
			if err != nil {
				return
			}
			if !begun {
				close(first)
			}
			if !begun || p.Timestamp != stamp {
				r.tick(time.Now())
			}
			begun, stamp = true, p.Timestamp
		}
	})
	if r.ws, err = client.DialSignal(ctx, url); err != nil {
		return nil, err
	}
	talk := context.WithoutCancel(ctx) // signalling goes on as long as the stream: close ends it
	r.pc.OnICECandidate(func(k *webrtc.ICECandidate) {
		if k == nil {
			return
		}
		j := k.ToJSON()
		_ = r.ws.Send(talk, map[string]any{"type": "candidate", "candidate": encode(j.Candidate), "sdpMid": j.SDPMid, "sdpMLineIndex": j.SDPMLineIndex})
	})
	if err := r.ws.Send(ctx, map[string]any{"type": "settings", "api_version": 2, "enable_video": true, "data_channels": []string{}}); err != nil {
		return nil, err
	}
	go r.signal(talk)
	select {
	case <-first:
		return r, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("the session shows no picture: %w", ctx.Err())
	}
}

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// signal answers the stream's offer and takes its candidates, until ctx ends.
func (r *receiver) signal(ctx context.Context) {
	for {
		m, err := r.ws.Receive(ctx)
		if err != nil {
			return
		}
		if err := r.answer(ctx, m); err != nil {
			return // no picture comes, and that is what watch tells
		}
	}
}

func (r *receiver) answer(ctx context.Context, m client.Message) error {
	switch m.Type {
	case "offer":
		sdp, err := base64.StdEncoding.DecodeString(m.SDP)
		if err != nil {
			return err
		}
		if err := r.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: string(sdp)}); err != nil {
			return err
		}
		d, err := r.pc.CreateAnswer(nil)
		if err != nil {
			return err
		}
		return errors.Join(r.pc.SetLocalDescription(d), r.ws.Send(ctx, map[string]any{"type": "answer", "sdp": encode(d.SDP)}))
	case "candidate":
		text, err := base64.StdEncoding.DecodeString(m.Candidate)
		if err != nil {
			return err
		}
		return r.pc.AddICECandidate(webrtc.ICECandidateInit{Candidate: string(text), SDPMid: m.SDPMid, SDPMLineIndex: m.SDPMLineIndex})
	default:
		return nil
	}
}

func (r *receiver) close() {
	if r.ws != nil {
		_ = r.ws.Close()
	}
	if r.pc != nil {
		_ = r.pc.Close()
	}
}
