package rtc

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/perigee-cloud/perigee/api"
)

// Types of signalling message.
const (
	TypeDiscover         = "discover"
	TypeDiscoverResponse = "resp:discover"
	TypeSettings         = "settings"
	TypeOffer            = "offer"
	TypeAnswer           = "answer"
	TypeCandidate        = "candidate"
	TypeError            = "error"
	// TypeRestart asks for an ICE restart of the connection whose key it names; ours.
	TypeRestart = "perigee.restart"
)

// MaxAPIVersion is the newest version of the signalling that the server speaks.
const MaxAPIVersion = 2

// Settings is what a client says of itself before the offer.
type Settings struct {
	APIVersion       int      `json:"api_version"`
	DataChannels     []string `json:"data_channels"`
	EnableSpeaker    bool     `json:"enable_speaker"`
	EnableMicrophone bool     `json:"enable_microphone"`
	EnableVideo      bool     `json:"enable_video"`
	EnableCamera     bool     `json:"enable_camera"`
	Video            struct {
		PreferredDecoderCodecs []string `json:"preferred_decoder_codecs"`
	} `json:"video"`
}

// Message is one signalling message of a client.
type Message struct {
	Type      string
	Settings  Settings // with TypeSettings
	SDP       string   // with TypeOffer and TypeAnswer, decoded
	Candidate Candidate
	Key       string // with TypeRestart
}

// Candidate is one way to reach the sender.
type Candidate struct {
	Line  string // "candidate:…", decoded; empty = no more
	Mid   *string
	Index *uint16
}

type wireMessage struct {
	Type          string  `json:"type"`
	SDP           string  `json:"sdp,omitempty"`
	Candidate     string  `json:"candidate,omitempty"`
	SDPMid        *string `json:"sdpMid,omitempty"`
	SDPMLineIndex *uint16 `json:"sdpMLineIndex,omitempty"`
	Key           string  `json:"key,omitempty"`
}

// ParseMessage reads a client's frame. Types it does not know come back with
// nothing but their type.
func ParseMessage(frame []byte) (Message, error) {
	var w wireMessage
	if err := json.Unmarshal(frame, &w); err != nil {
		return Message{}, api.Invalidf("message", "is not the JSON object that the protocol wants: %v", err)
	}
	m := Message{Type: w.Type, Key: w.Key}
	switch w.Type {
	case TypeSettings:
		if err := json.Unmarshal(frame, &m.Settings); err != nil {
			return m, api.Invalidf("settings", "%v", err)
		}
	case TypeOffer, TypeAnswer:
		sdp, err := base64.StdEncoding.DecodeString(w.SDP)
		if err != nil || len(sdp) == 0 {
			return m, api.Invalidf("sdp", "of the %s must be base64 and not empty", w.Type)
		}
		m.SDP = string(sdp)
	case TypeCandidate:
		line, err := base64.StdEncoding.DecodeString(w.Candidate)
		if err != nil {
			return m, api.Invalidf("candidate", "must be base64")
		}
		m.Candidate = Candidate{Line: string(line), Mid: w.SDPMid, Index: w.SDPMLineIndex}
	case "":
		return m, api.Invalidf("type", "is missing")
	}
	return m, nil
}

func encode(v any) []byte {
	b, _ := json.Marshal(v) // strings and numbers only: cannot fail
	return b
}

func sdpFrame(kind, sdp string) []byte {
	return encode(wireMessage{Type: kind, SDP: base64.StdEncoding.EncodeToString([]byte(sdp))})
}

func candidateFrame(line, mid string) []byte {
	var index uint16
	return encode(wireMessage{Type: TypeCandidate, Candidate: base64.StdEncoding.EncodeToString([]byte(line)),
		SDPMid: &mid, SDPMLineIndex: &index})
}

// ErrorFrame is what a client is sent before it is cut off while signalling;
// without it the client would wait for minutes.
func ErrorFrame(message string) []byte {
	return encode(struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}{TypeError, message})
}

// DiscoverFrame answers a discover.
func DiscoverFrame(fps int) []byte {
	return fmt.Appendf(nil, `{"type":%q,"max_api_version":%d,"fps":%d,"capabilities":[]}`, TypeDiscoverResponse, MaxAPIVersion, fps)
}
