package gossip

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/hashicorp/memberlist"

	"github.com/perigee-cloud/perigee/api"
)

// MaxMeta bounds a member's encoded Meta in bytes: memberlist's own limit.
const MaxMeta = memberlist.MetaMaxSize

const metaVersion = 1

// Errors of this package.
var (
	ErrMetaTooLarge = errors.New("gossip meta is too large")
	ErrMessage      = errors.New("not a gossip message")
)

// Encoder is a kind of encoder of a node.
type Encoder struct {
	Pool   api.Pool    `json:"p"`
	Codecs []api.Codec `json:"c,omitempty"`
}

// Meta is what seldom changes of a member. Schedulers have no encoders.
type Meta struct {
	ID       api.NodeID
	Region   string
	Location api.Location // the city's name is not carried
	Encoders []Encoder
}

// MetaOf gives the meta of a node.
func MetaOf(n api.Node) Meta {
	m := Meta{ID: n.ID, Region: n.Region, Location: n.Location}
	for _, p := range n.Pools {
		m.Encoders = append(m.Encoders, Encoder{Pool: p.Pool, Codecs: p.Codecs})
	}
	return m
}

// wireMeta has short keys: 512 bytes are not many.
type wireMeta struct {
	Version  int         `json:"v"`
	ID       api.NodeID  `json:"i"`
	Region   string      `json:"r,omitempty"`
	Location *[3]float64 `json:"l,omitempty"` // latitude, longitude, radius km
	Encoders []Encoder   `json:"e,omitempty"`
}

// encode gives the bytes that memberlist spreads; ErrMetaTooLarge when they are
// more than it takes.
func (m Meta) encode() ([]byte, error) {
	if !api.ValidID(string(m.ID)) {
		return nil, api.Invalidf("meta.id", "%q is not an id", m.ID)
	}
	w := wireMeta{Version: metaVersion, ID: m.ID, Region: m.Region, Encoders: m.Encoders}
	if m.Location.Known {
		w.Location = &[3]float64{m.Location.Latitude, m.Location.Longitude, m.Location.RadiusKM}
	}
	b, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encode gossip meta: %w", err)
	}
	if len(b) > MaxMeta {
		return nil, fmt.Errorf("encode gossip meta of %d bytes, at most %d: shorten the region's name or list fewer codecs: %w", len(b), MaxMeta, ErrMetaTooLarge)
	}
	return b, nil
}

func parseMeta(b []byte) (Meta, error) {
	var w wireMeta
	if err := json.Unmarshal(b, &w); err != nil {
		return Meta{}, fmt.Errorf("read gossip meta: %w", ErrMessage)
	}
	// A later version may add keys; what this one reads stays.
	if w.Version < metaVersion || !api.ValidID(string(w.ID)) {
		return Meta{}, fmt.Errorf("read gossip meta of version %d: %w", w.Version, ErrMessage)
	}
	m := Meta{ID: w.ID, Region: w.Region, Encoders: w.Encoders}
	if w.Location != nil {
		m.Location = api.Location{Latitude: w.Location[0], Longitude: w.Location[1], RadiusKM: w.Location[2], Known: true}
	}
	return m, nil
}
