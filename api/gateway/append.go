package gateway

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// The answer to a create is written without reflection: in a herd that is a
// fortieth of what a create costs. A test holds it to what encoding/json writes.

// appender is an object that adds itself to JSON.
type appender interface {
	appendJSON(b []byte) []byte
}

// created is the answer to a create.
type created api.CreateAnswer

func (a *created) appendJSON(b []byte) []byte {
	b = appendText(append(b, `{"id":`...), string(a.ID))
	b = appendText(append(b, `,"region":`...), a.Region)
	b = appendText(append(b, `,"status":`...), string(a.Status))
	b = strconv.AppendBool(append(b, `,"joinable":`...), a.Joinable)
	b = appendText(append(b, `,"url":`...), a.URL)
	b = append(b, `,"stun_servers":[`...)
	for i := range a.STUNServers {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendICEServer(b, &a.STUNServers[i])
	}
	b = appendDetail(append(b, `],"perigee":`...), &a.Perigee)
	return append(b, '}')
}

// appendAnswer writes the envelope of a success.
func appendAnswer(b []byte, status int, a appender) []byte {
	b = append(b, `{"type":"`+api.EnvelopeSync+`","status":"`+api.EnvelopeSuccess+`","status_code":`...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = a.appendJSON(append(b, `,"metadata":`...))
	return append(b, "}\n"...)
}

func appendICEServer(b []byte, s *api.ICEServer) []byte {
	b = append(b, `{"urls":[`...)
	for i, u := range s.URLs {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, u)
	}
	b = append(b, ']')
	if s.Username != "" {
		b = appendText(append(b, `,"username":`...), s.Username)
	}
	if s.Password != "" {
		b = appendText(append(b, `,"password":`...), s.Password)
	}
	return append(b, '}')
}

func appendDetail(b []byte, d *api.SessionDetail) []byte {
	b = appendText(append(b, `{"node":`...), string(d.Node))
	b = appendText(append(b, `,"region":`...), d.Region)
	b = appendKnown(append(b, `,"distance_km":`...), d.DistanceKM)
	b = appendKnown(append(b, `,"estimate_ms":`...), d.EstimateMS)
	b = strconv.AppendInt(append(b, `,"rank":`...), int64(d.Rank), 10)
	b = appendNumber(append(b, `,"extra_ms":`...), d.ExtraMS)
	b = appendUnlessEmpty(b, `,"step":`, d.Step)
	b = appendUnlessEmpty(b, `,"preset":`, string(d.Preset))
	if d.Queue != nil {
		b = appendAny(append(b, `,"queue":`...), d.Queue)
	}
	b = strconv.AppendUint(append(b, `,"generation":`...), uint64(d.Generation), 10)
	b = appendText(append(b, `,"codec":`...), string(d.Codec))
	b = appendUnlessEmpty(b, `,"pool":`, string(d.Pool))
	b = strconv.AppendInt(append(b, `,"app_version":`...), int64(d.AppVersion), 10)
	b = appendScreen(append(b, `,"screen":`...), d.Screen)
	b = appendUnlessEmpty(b, `,"reason":`, string(d.Reason))
	b = strconv.AppendBool(append(b, `,"connected":`...), d.Connected)
	b = appendTime(append(b, `,"created_at":`...), d.CreatedAt)
	if !d.EndedAt.IsZero() {
		b = appendTime(append(b, `,"ended_at":`...), d.EndedAt)
	}
	b = appendUnlessEmpty(b, `,"account":`, d.Account)
	if d.Warm {
		b = append(b, `,"warm":true`...)
	}
	if d.FromPool {
		b = append(b, `,"from_pool":true`...)
	}
	if len(d.Latency) > 0 {
		b = appendAny(append(b, `,"latency":`...), d.Latency)
	}
	return append(b, '}')
}

func appendScreen(b []byte, s api.Screen) []byte {
	b = strconv.AppendInt(append(b, `{"width":`...), int64(s.Width), 10)
	b = strconv.AppendInt(append(b, `,"height":`...), int64(s.Height), 10)
	if s.FPS != 0 {
		b = strconv.AppendInt(append(b, `,"fps":`...), int64(s.FPS), 10)
	}
	if s.Density != 0 {
		b = strconv.AppendInt(append(b, `,"density":`...), int64(s.Density), 10)
	}
	return append(b, '}')
}

func appendUnlessEmpty(b []byte, key, v string) []byte {
	if v == "" {
		return b
	}
	return appendText(append(b, key...), v)
}

func appendKnown(b []byte, v *float64) []byte {
	if v == nil {
		return append(b, "null"...)
	}
	return appendNumber(b, *v)
}

// appendNumber writes the usual magnitudes; encoding/json knows the others.
func appendNumber(b []byte, v float64) []byte {
	if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e21) || v != v {
		return appendAny(b, v)
	}
	return strconv.AppendFloat(b, v, 'f', -1, 64)
}

func appendTime(b []byte, t time.Time) []byte {
	if y := t.Year(); y < 1 || y > 9999 {
		return appendAny(b, t)
	}
	return append(t.AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}

// appendText writes a string; encoding/json escapes what must be.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			return appendAny(b, s)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// appendAny writes what is seldom there.
func appendAny(b []byte, v any) []byte {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return append(b, "null"...) // a number that JSON does not have
	}
	return slices.Concat(b, bytes.TrimRight(out.Bytes(), "\n"))
}
