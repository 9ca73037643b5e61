package api

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// CertificateState says how far the measurement of a node's encoders came.
type CertificateState string

// States of a Certificate.
const (
	CertificateComplete    CertificateState = "complete"
	CertificateInterrupted CertificateState = "interrupted" // cut off: what was measured until then stands
	CertificateNothing     CertificateState = "nothing"     // no engine keeps up with a single stream
)

// EngineState is the outcome of measuring one codec on one engine.
type EngineState string

// States of an EngineCertificate. Only a certified one may be reserved on.
const (
	EngineCertified   EngineState = "certified"
	EngineSlow        EngineState = "too_slow"    // not even one stream in time
	EngineUnavailable EngineState = "unavailable" // the engine, its driver or the encoder is not there
	EngineFailed      EngineState = "failed"      // it refused or gave an error
	EngineCrashed     EngineState = "crashed"     // it took its process with it
	EngineHung        EngineState = "hung"        // it did not end in time
	EngineInterrupted EngineState = "interrupted" // its turn did not come, or was cut off
)

// LoadPoint is one point of an engine's curve: streams of 1280x720@30 of the
// reference picture, in real time.
type LoadPoint struct {
	Share       int     `json:"share"` // percent of what the engine can, as offered
	Streams     int     `json:"streams"`
	Macroblocks uint64  `json:"macroblocks_per_s"` // really encoded
	Busy        float64 `json:"busy_percent"`      // of the engine: for software, of all cores
	P50MS       float64 `json:"p50_ms"`            // from the picture in memory to its packet
	P95MS       float64 `json:"p95_ms"`
}

// EngineCertificate is what one engine was measured to do with one codec.
type EngineCertificate struct {
	Engine  string      `json:"engine"` // "cpu", "nvenc0", "vaapi0"
	Pool    Pool        `json:"pool"`
	Device  string      `json:"device,omitempty"` // of a hardware pool: an index, or a render node
	Codec   Codec       `json:"codec"`
	Encoder string      `json:"encoder"` // FFmpeg's name
	Preset  string      `json:"preset,omitempty"`
	State   EngineState `json:"state"`
	Detail  string      `json:"detail,omitempty"` // why it is not certified
	// Macroblocks per second of this codec that the engine carries in real time.
	Macroblocks uint64 `json:"macroblocks_per_s"`
	// Fast is the same with PresetFast; 0 = not measured, or not faster.
	Fast         uint64      `json:"fast_macroblocks_per_s,omitempty"`
	FirstFrameMS float64     `json:"first_frame_ms"`     // from opening to the first packet
	Sessions     int         `json:"sessions,omitempty"` // open at once until it refused; 0 = no limit met
	Load         []LoadPoint `json:"load,omitempty"`     // by rising load
	// Steal and Foreign are the shares of the machine's processor time that the
	// hypervisor and other programs took meanwhile, percent; both are taken out
	// of the figures.
	Steal   float64 `json:"steal_percent"`
	Foreign float64 `json:"foreign_percent"`
	Public  uint64  `json:"public_macroblocks_per_s,omitempty"` // what is published of this model
}

// Certificate is what a node's encoders were measured to do.
type Certificate struct {
	Version  int                 `json:"version"`
	Node     NodeID              `json:"node"`
	TakenAt  time.Time           `json:"taken_at"`
	Seconds  float64             `json:"seconds"` // that it took
	Full     bool                `json:"full"`    // long phases; else the quick one
	State    CertificateState    `json:"state"`
	Machine  string              `json:"machine"` // processor model
	Cores    int                 `json:"cores"`
	Software string              `json:"software"` // what encodes: another one is measured anew
	Driver   string              `json:"driver,omitempty"`
	Clip     string              `json:"clip"` // the reference picture
	Engines  []EngineCertificate `json:"engines"`
	Alarms   []string            `json:"alarms,omitempty"` // what strays from the certificate before
}

const (
	// CertificateVersion is the version that this code writes.
	CertificateVersion = 1
	// MaxCertificate bounds a certificate's document in bytes.
	MaxCertificate = 32 << 10
)

// ErrCertificate says that a certificate cannot be believed.
var ErrCertificate = errors.New("not a certificate of this node")

// SignedCertificate carries a certificate as the node signed it.
type SignedCertificate struct {
	Document  json.RawMessage `json:"document"`
	Signature []byte          `json:"signature"` // Ed25519 by the node's key
}

func certificatePayload(doc []byte) []byte {
	return append([]byte("perigee-certificate-1\x00"), doc...)
}

// SignCertificate signs with the node's key.
func SignCertificate(c Certificate, key ed25519.PrivateKey) (SignedCertificate, error) {
	doc, err := json.Marshal(c)
	if err != nil {
		return SignedCertificate{}, fmt.Errorf("encode certificate: %w", err)
	}
	if len(doc) > MaxCertificate {
		return SignedCertificate{}, fmt.Errorf("encode certificate of %d bytes, at most %d: %w", len(doc), MaxCertificate, ErrCertificate)
	}
	return SignedCertificate{Document: doc, Signature: ed25519.Sign(key, certificatePayload(doc))}, nil
}

// Open checks the signature by a node's public key and reads the certificate.
// Its error wraps ErrCertificate.
func (s SignedCertificate) Open(key ed25519.PublicKey) (Certificate, error) {
	var c Certificate
	if len(s.Document) == 0 || len(s.Document) > MaxCertificate {
		return c, fmt.Errorf("read certificate of %d bytes: %w", len(s.Document), ErrCertificate)
	}
	// A document that was stored indented is signed as it was sent.
	var doc bytes.Buffer
	if err := json.Compact(&doc, s.Document); err != nil {
		return c, fmt.Errorf("read certificate: %w", errors.Join(ErrCertificate, err))
	}
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, certificatePayload(doc.Bytes()), s.Signature) {
		return c, fmt.Errorf("check certificate's signature: %w", ErrCertificate)
	}
	if err := json.Unmarshal(doc.Bytes(), &c); err != nil {
		return c, fmt.Errorf("read certificate: %w", errors.Join(ErrCertificate, err))
	}
	if id := NodeIDFromKey(key); c.Node != id {
		return c, fmt.Errorf("certificate is of node %q, its key makes it %q: %w", c.Node, id, ErrCertificate)
	}
	return c, nil
}
