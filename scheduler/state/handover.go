package state

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/perigee-cloud/perigee/api"
)

// Handover is a create that a replica hands to the leader. Handovers and what is
// made of them are coded as entries are, but stand in no log: another layout gets
// another name of the call that carries it.
type Handover struct {
	ID        api.SessionID
	Request   api.CreateRequest
	TimeoutMS int64 // from now
}

// Made answers a Handover: by the session, or by Other, which the coder does not
// look at.
type Made struct {
	Session *api.Session
	Viewer  uint32
	Other   []byte
}

// EncodeHandovers writes creates.
func EncodeHandovers(many []Handover) []byte {
	c := coder{b: make([]byte, 0, 512*len(many)+binary.MaxVarintLen64)}
	list(&c, &many, handoverFields)
	return c.b
}

// DecodeHandovers reads creates. Its error wraps ErrEntry.
func DecodeHandovers(b []byte) ([]Handover, error) {
	var many []Handover
	c := coder{reading: true, b: b, words: new(words)}
	list(&c, &many, handoverFields)
	return many, c.whole("creates")
}

// CanMake says whether a session can stand in a Made: one that lives and has its
// place.
func CanMake(v *api.Session) bool {
	return v.EndedAt.IsZero() && v.Queue == nil && len(v.Latency) == 0
}

// EncodeMade writes answers to creates, with sessions as entries of a version
// hold them.
func EncodeMade(version int, many []Made) []byte {
	c := coder{version: version, b: append(make([]byte, 0, 512*len(many)+binary.MaxVarintLen64), byte(version))}
	list(&c, &many, madeFields)
	return c.b
}

// DecodeMade reads answers to creates. Its error wraps ErrEntry.
func DecodeMade(b []byte) ([]Made, error) {
	if len(b) == 0 || b[0] > EntryVersion {
		return nil, fmt.Errorf("read answers to creates: %w", ErrEntry)
	}
	var many []Made
	c := coder{reading: true, version: int(b[0]), b: b[1:], words: new(words)}
	list(&c, &many, madeFields)
	return many, c.whole("answers to creates")
}

// whole says whether everything was read and nothing is left.
func (c *coder) whole(what string) error {
	if c.err == nil && len(c.b) > 0 {
		c.fail(what)
	}
	return c.err
}

func madeFields(c *coder, m *Made) {
	is := m.Session != nil
	c.bool(&is)
	if !is {
		c.bytes(&m.Other)
		return
	}
	var s Session
	if !c.reading {
		s = Session{Session: *m.Session, Viewer: m.Viewer}
	}
	sessionFields(c, &s)
	if c.reading {
		m.Session, m.Viewer = &s.Session, s.Viewer
	}
}

func handoverFields(c *coder, h *Handover) {
	once(c, &h.ID)
	c.int(&h.TimeoutMS)
	r := &h.Request
	what(c, &r.App, &r.AppVersion, &r.Region)
	screen(c, &r.Screen)
	asked := r.Asked != nil
	if c.bool(&asked); asked {
		if c.reading {
			r.Asked = &api.Screen{}
		}
		screen(c, r.Asked)
	}
	life(c, &r.Joinable, &r.Ephemeral, &r.IdleMinutes)
	c.bytes((*[]byte)(&r.ExtraData))
	list(c, &r.Codecs, str[api.Codec])
	list(c, &r.Probes, func(c *coder, p *api.Probe) {
		str(c, &p.Node)
		c.float64(&p.RoundTripMS)
		c.bool(&p.Silent)
	})
	num(c, &r.WaitS)
	once(c, &r.IdempotencyKey)
	once(c, &r.Client.Address)
	l := &r.Client.Location
	for _, v := range []*float64{&l.Latitude, &l.Longitude, &l.RadiusKM} {
		c.float64(v)
	}
	c.bool(&l.Known)
	texts(c, &l.Source, &l.City)
	g := &r.Grant
	texts(c, &g.Account, &g.TokenID, &g.App)
	list(c, &g.Rights, str[api.Right])
	c.time(&g.Expires)
	num(c, &g.Uses)
}

// float64 keeps all bits: what is handed over is what was asked for.
func (c *coder) float64(v *float64) {
	if !c.reading {
		c.b = binary.LittleEndian.AppendUint64(c.b, math.Float64bits(*v))
		return
	}
	if len(c.b) < 8 {
		c.fail("float")
		return
	}
	*v = math.Float64frombits(binary.LittleEndian.Uint64(c.b))
	c.b = c.b[8:]
}
