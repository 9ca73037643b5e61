package state

import (
	"encoding/json"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// Create makes a session where it was placed and reserves its capacity, in one
// step with counting down the token that paid for it.
type Create struct {
	ID          api.SessionID
	Generation  api.Generation
	Account     string
	Token       string // id of the token that is counted down; "" for none
	Key         string // idempotency key within the account; "" for none
	App         string
	AppVersion  int
	Region      string
	Node        api.NodeID // "" for an external application
	Pool        api.Pool
	Codec       api.Codec
	Codecs      []api.Codec // allowed, preferred first
	Reserved    uint64      // macroblocks per second
	Screen      api.Screen
	Joinable    bool
	Ephemeral   bool
	IdleMinutes int
	Placement   api.Placement
	Preset      api.Preset // of the encoder; from version 2 on
	ExtraData   json.RawMessage
	Parts       api.Parts // beside the pool; from version 4 on
}

func (*Create) kind() kind { return kindCreate }

func (m *Create) fields(c *coder) {
	once(c, &m.ID)
	num(c, &m.Generation)
	texts(c, &m.Account, &m.Token)
	once(c, &m.Key)
	what(c, &m.App, &m.AppVersion, &m.Region)
	where(c, &m.Node, &m.Pool, &m.Codec)
	list(c, &m.Codecs, str[api.Codec])
	c.uint(&m.Reserved)
	screen(c, &m.Screen)
	life(c, &m.Joinable, &m.Ephemeral, &m.IdleMinutes)
	placement(c, &m.Placement)
	c.bytes((*[]byte)(&m.ExtraData))
	if c.version >= 2 {
		laddered(c, &m.Placement, &m.Preset)
	}
	partsFields(c, &m.Parts)
}

// Runs of fields that several records share.

func texts(c *coder, fields ...*string) {
	for _, f := range fields {
		str(c, f)
	}
}

func what(c *coder, app *string, version *int, region *string) {
	str(c, app)
	num(c, version)
	str(c, region)
}

func where(c *coder, n *api.NodeID, p *api.Pool, codec *api.Codec) {
	str(c, n)
	str(c, p)
	str(c, codec)
}

func life(c *coder, joinable, ephemeral *bool, idle *int) {
	c.bool(joinable)
	c.bool(ephemeral)
	num(c, idle)
}

func hosted(c *coder, id *api.SessionID, g *api.Generation, n *api.NodeID) {
	str(c, id)
	num(c, g)
	str(c, n)
}

func screen(c *coder, s *api.Screen) {
	for _, side := range []*int{&s.Width, &s.Height, &s.FPS, &s.Density} {
		num(c, side)
	}
}

func placement(c *coder, p *api.Placement) {
	num(c, &p.Rank)
	for _, v := range []*float64{&p.DistanceKM, &p.EstimateMS, &p.ErrorMS} {
		c.float(v)
	}
	str(c, &p.Source)
}

// laddered is what version 2 adds to a placement.
func laddered(c *coder, p *api.Placement, preset *api.Preset) {
	str(c, &p.Step)
	c.float(&p.ExtraMS)
	str(c, preset)
}

// End wants a session stopped.
type End struct {
	ID     api.SessionID
	Reason api.Reason
	Force  bool
}

func (*End) kind() kind { return kindEnd }

func (m *End) fields(c *coder) {
	str(c, &m.ID)
	str(c, &m.Reason)
	c.bool(&m.Force)
}

// Join hands a running session to the next client. A screen of zero width keeps
// the present size; Reserved is what the new size takes.
type Join struct {
	ID     api.SessionID
	Screen api.Screen
}

func (*Join) kind() kind { return kindJoin }

func (m *Join) fields(c *coder) {
	str(c, &m.ID)
	screen(c, &m.Screen)
}

// Report is a change that an edge observed.
type Report struct {
	ID         api.SessionID
	Generation api.Generation
	Node       api.NodeID
	Boot       string
	Seq        uint64
	Observed   api.Observed
	Reason     api.Reason
	Message    string
	Connected  bool
	Pool       api.Pool
	Codec      api.Codec
}

func (*Report) kind() kind { return kindReport }

func (m *Report) fields(c *coder) {
	hosted(c, &m.ID, &m.Generation, &m.Node)
	str(c, &m.Boot)
	c.uint(&m.Seq)
	str(c, &m.Observed)
	str(c, &m.Reason)
	str(c, &m.Message)
	c.bool(&m.Connected)
	str(c, &m.Pool)
	str(c, &m.Codec)
}

// Missing says that a node that is heard does not run a session which it
// should: what it held is free.
type Missing struct {
	ID         api.SessionID
	Generation api.Generation
	Node       api.NodeID
}

func (*Missing) kind() kind { return kindMissing }

func (m *Missing) fields(c *coder) {
	hosted(c, &m.ID, &m.Generation, &m.Node)
}

// PutNode records a node that joined, or joined again.
type PutNode struct {
	Doc         []byte // api.Node as JSON
	RelaySecret []byte
	Token       string // id of the token that is counted down for a new node
}

func (*PutNode) kind() kind { return kindPutNode }

func (m *PutNode) fields(c *coder) {
	c.bytes(&m.Doc)
	c.bytes(&m.RelaySecret)
	str(c, &m.Token)
}

// DrainNode says whether a node takes new sessions.
type DrainNode struct {
	ID    api.NodeID
	Drain bool
}

func (*DrainNode) kind() kind { return kindDrainNode }

func (m *DrainNode) fields(c *coder) {
	str(c, &m.ID)
	c.bool(&m.Drain)
}

// RemoveNode forgets a node and ends what it ran.
type RemoveNode struct{ ID api.NodeID }

func (*RemoveNode) kind() kind { return kindRemoveNode }

func (m *RemoveNode) fields(c *coder) { str(c, &m.ID) }

// LoseNode says that a node's lease ran out.
type LoseNode struct{ ID api.NodeID }

func (*LoseNode) kind() kind { return kindLoseNode }

func (m *LoseNode) fields(c *coder) { str(c, &m.ID) }

// BackNode says that a node is heard again, and what it runs.
type BackNode struct {
	ID      api.NodeID
	Running []api.Running
}

func (*BackNode) kind() kind { return kindBackNode }

func (m *BackNode) fields(c *coder) {
	str(c, &m.ID)
	list(c, &m.Running, func(c *coder, r *api.Running) {
		str(c, &r.Session)
		num(c, &r.Generation)
		str(c, &r.Observed)
		c.bool(&r.Connected)
	})
}

// PutApp makes a new version of an application; the state numbers it.
type PutApp struct{ Doc []byte } // api.App as JSON

func (*PutApp) kind() kind { return kindPutApp }

func (m *PutApp) fields(c *coder) { c.bytes(&m.Doc) }

// DeleteApp takes an application out of the catalogue. Its version numbers are
// never given again.
type DeleteApp struct{ Name string }

func (*DeleteApp) kind() kind { return kindDeleteApp }

func (m *DeleteApp) fields(c *coder) { str(c, &m.Name) }

// PutToken records a token by its hash, and its account where there is none.
type PutToken struct {
	Account string
	ID      string // SHA-256 of the token in hex
	Rights  []api.Right
	App     string
	Expires time.Time
	Uses    int // negative = not counted
}

func (*PutToken) kind() kind { return kindPutToken }

func (m *PutToken) fields(c *coder) {
	texts(c, &m.Account, &m.ID)
	list(c, &m.Rights, str[api.Right])
	str(c, &m.App)
	c.time(&m.Expires)
	num(c, &m.Uses)
}

// RevokeToken takes a token back; an empty id all tokens of the account.
type RevokeToken struct{ Account, ID string }

func (*RevokeToken) kind() kind { return kindRevokeToken }

func (m *RevokeToken) fields(c *coder) { texts(c, &m.Account, &m.ID) }

// DeleteAccount removes an account and its tokens; its sessions go on.
type DeleteAccount struct{ Name string }

func (*DeleteAccount) kind() kind { return kindDeleteAccount }

func (m *DeleteAccount) fields(c *coder) { str(c, &m.Name) }

// Secrets are the cluster's keys: the first ones stay.
type Secrets struct {
	TicketSeed []byte // Ed25519 seed that signs tickets
	RingKey    []byte // of the gossip rings
}

func (*Secrets) kind() kind { return kindSecrets }

func (m *Secrets) fields(c *coder) {
	c.bytes(&m.TicketSeed)
	c.bytes(&m.RingKey)
}

// Tick lets time pass: what is past its keeping is dropped.
type Tick struct{}

func (*Tick) kind() kind { return kindTick }

func (*Tick) fields(*coder) {}

// Demand records one minute's refused requests.
type Demand struct{ Cells []api.DemandCell }

func (*Demand) kind() kind { return kindDemand }

func (m *Demand) fields(c *coder) { list(c, &m.Cells, demandCell) }

func demandCell(c *coder, d *api.DemandCell) {
	c.int(&d.Minute)
	texts(c, &d.Region, &d.App, (*string)(&d.Codec), &d.Size, (*string)(&d.Reason))
	c.uint(&d.Count)
}
