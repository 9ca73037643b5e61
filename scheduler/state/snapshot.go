package state

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/perigee-cloud/perigee/api"
)

// snapshotMagic opens a snapshot: a name and the version of its form.
const snapshotMagic = "perigee-state\x01"

// Sections of a snapshot: each record is (section, length, payload).
const (
	sectionEnd uint64 = iota
	sectionHead
	sectionApp
	sectionAccount
	sectionToken
	sectionNode
	sectionSession
	sectionFinished
	sectionDemand
	sectionReplica
	sectionVersion
	// From entries of version 2 on.
	sectionSession2
	sectionQueue
	sectionPolicy
	sectionRoutes
	sectionHidden    uint64 = 32 // since entries of version 2
	sectionInstance  uint64 = 33 // since entries of version 2
	sectionShares    uint64 = 64 // since entries of version 3
	sectionNode4     uint64 = 34 // since entries of version 4
	sectionSession4  uint64 = 35 // since entries of version 4
	sectionSession5  uint64 = 36 // since entries of version 5
	sectionPool      uint64 = 37 // since entries of version 5
	sectionProtected uint64 = 96 // since entries of version 5
)

// WriteTo writes the snapshot of a root: the same state gives the same bytes.
func (s *State) WriteTo(w io.Writer) (int64, error) {
	out := &snapshotWriter{w: bufio.NewWriterSize(w, 64<<10)}
	out.raw([]byte(snapshotMagic))
	out.put(sectionHead, func(c *coder) { head(c, s) })
	for _, a := range s.apps.Sorted() {
		out.put(sectionApp, func(c *coder) { _ = appFields(c, a) })
		if hidden := a.hidden(); len(hidden) > 0 {
			out.put(sectionHidden, func(c *coder) { hiddenFields(c, &a.Name, &hidden) })
		}
	}
	for _, a := range s.accounts.Sorted() {
		out.put(sectionAccount, func(c *coder) { accountFields(c, a) })
	}
	for _, t := range s.tokens.Sorted() {
		out.put(sectionToken, func(c *coder) { tokenFields(c, t) })
	}
	node, live := sectionNode, sectionSession
	switch out.c.version = s.EntryVersion(); out.c.version {
	case 1:
	case 2, 3:
		live = sectionSession2
	case 4:
		node, live = sectionNode4, sectionSession4
	default:
		node, live = sectionNode4, sectionSession5
	}
	for _, n := range s.nodes.Sorted() {
		out.put(node, func(c *coder) { nodeFields(c, n) })
	}
	for _, v := range s.sessions.Sorted() {
		out.put(live, func(c *coder) { sessionFields(c, v) })
	}
	for id := range s.finished.ids() {
		packed, _ := s.finished.records.Get(string(id))
		out.put(sectionFinished, func(c *coder) { c.b = append(c.b, packed...) })
	}
	for _, m := range s.demand {
		out.put(sectionDemand, func(c *coder) { list(c, &m.cells, demandCell) })
	}
	for _, r := range s.replicas.Sorted() {
		out.put(sectionReplica, func(c *coder) { c.bytes(&r.doc) })
	}
	if s.version > 0 {
		out.put(sectionVersion, func(c *coder) { num(c, &s.version) })
	}
	s.writeLater(out)
	out.put(sectionEnd, func(*coder) {})
	if out.err == nil {
		out.err = out.w.Flush()
	}
	if out.err != nil {
		return out.n, fmt.Errorf("write snapshot: %w", out.err)
	}
	return out.n, nil
}

type snapshotWriter struct {
	w   *bufio.Writer
	c   coder
	n   int64
	err error
}

func (o *snapshotWriter) raw(b []byte) {
	if o.err == nil {
		var n int
		n, o.err = o.w.Write(b)
		o.n += int64(n)
	}
}

func (o *snapshotWriter) put(section uint64, fields func(*coder)) {
	o.c.b = o.c.b[:0]
	fields(&o.c)
	var lead [2 * binary.MaxVarintLen64]byte
	b := binary.AppendUvarint(lead[:0], section)
	o.raw(binary.AppendUvarint(b, uint64(len(o.c.b))))
	o.raw(o.c.b)
}

// Read restores the state that WriteTo wrote.
func Read(r io.Reader) (*State, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	magic := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(in, magic); err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	if string(magic) != snapshotMagic {
		return nil, fmt.Errorf("read snapshot: it opens with %q and this program reads %q: %w", magic, snapshotMagic, ErrEntry)
	}
	s := New()
	s.edits = 1 // this one
	known := new(words)
	for {
		section, payload, err := readRecord(in)
		if err != nil {
			return nil, fmt.Errorf("read snapshot: %w", err)
		}
		if section == sectionEnd {
			s.requeue()
			return s, nil
		}
		c := coder{reading: true, b: payload, words: known}
		if err := s.load(section, &c); err != nil {
			return nil, fmt.Errorf("read snapshot section %d: %w", section, err)
		}
	}
}

func readRecord(in *bufio.Reader) (uint64, []byte, error) {
	section, err := binary.ReadUvarint(in)
	if err != nil {
		return 0, nil, err
	}
	n, err := binary.ReadUvarint(in)
	if err != nil {
		return 0, nil, err
	}
	if n > 64<<20 {
		return 0, nil, fmt.Errorf("a record of %d bytes: %w", n, ErrEntry)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(in, payload); err != nil {
		return 0, nil, err
	}
	return section, payload, nil
}

// load takes in one record. Nodes come before the sessions that they host.
func (s *State) load(section uint64, c *coder) error {
	var err error
	switch section {
	case sectionHead:
		head(c, s)
	case sectionApp:
		a := &App{}
		err = appFields(c, a)
		s.apps = s.apps.Set(a.Name, a)
	case sectionAccount:
		a := &Account{}
		accountFields(c, a)
		s.accounts = s.accounts.Set(a.Name, a)
	case sectionToken:
		t := &Token{}
		tokenFields(c, t)
		s.tokens = s.tokens.Set(t.TokenID, t)
		if a, ok := s.accounts.Get(t.Account); ok {
			n := *a
			n.tokens = n.tokens.Set(t.TokenID, struct{}{})
			s.accounts = s.accounts.Set(n.Name, &n)
		}
	case sectionNode:
		err = s.loadNode(c)
	case sectionSession:
		v := &Session{}
		sessionFields(c, v)
		err = s.loadSession(v)
	case sectionFinished:
		packed := string(c.b)
		v, key, e := unpack(packed)
		if e != nil {
			return e
		}
		s.finished.append(s.edits, v.ID, packed, v.EndedAt.UnixNano())
		if key != "" {
			s.keys = s.keys.SetIn(s.edits, idemKey(v.Account, key), v.ID)
		}
		return nil
	case sectionDemand:
		m := &demandMinute{}
		list(c, &m.cells, demandCell)
		if len(m.cells) > 0 {
			m.minute = m.cells[0].Minute
		}
		s.demand = append(s.demand, m)
	case sectionReplica:
		err = s.loadReplica(c)
	case sectionVersion:
		num(c, &s.version)
	case sectionHidden:
		s.loadHidden(c)
	default:
		err = s.loadLater(section, c)
	}
	if err == nil && c.err == nil && len(c.b) > 0 {
		return fmt.Errorf("%d bytes too many: %w", len(c.b), ErrEntry)
	}
	return errors.Join(err, c.err)
}

func head(c *coder, s *State) {
	c.int(&s.last)
	s.secrets.fields(c)
}

func appFields(c *coder, a *App) error {
	str(c, &a.Name)
	num(c, &a.Last)
	var err error
	list(c, &a.Versions, func(c *coder, v **AppVersion) {
		var n int
		var doc []byte
		if !c.reading {
			n, doc = (*v).Version, (*v).doc
		}
		num(c, &n)
		c.bytes(&doc)
		if c.reading && c.err == nil {
			var e error
			if *v, e = parseApp(doc); e != nil {
				err = e
				*v = &AppVersion{}
			}
			(*v).Version = n
		}
	})
	return err
}

func accountFields(c *coder, a *Account) {
	str(c, &a.Name)
	c.time(&a.CreatedAt)
}

func tokenFields(c *coder, t *Token) {
	str(c, &t.TokenID)
	str(c, &t.Account)
	list(c, &t.Rights, str[api.Right])
	str(c, &t.App)
	c.time(&t.Expires)
	num(c, &t.Uses)
	c.time(&t.CreatedAt)
}

func nodeFields(c *coder, n *Node) {
	c.bytes(&n.doc)
	c.bytes(&n.RelaySecret)
	c.time(&n.JoinedAt)
	c.bool(&n.Drain)
	c.bool(&n.Lost)
	list(c, &n.Held, func(c *coder, h *Held) {
		str(c, &h.Session)
		num(c, &h.Generation)
		str(c, &h.Pool)
		c.uint(&h.Reserved)
		partsFields(c, &h.Parts)
	})
}

func (s *State) loadNode(c *coder) error {
	var kept Node
	nodeFields(c, &kept)
	if c.err != nil {
		return c.err
	}
	n, err := parseNode(kept.doc)
	if err != nil {
		return err
	}
	n.RelaySecret, n.JoinedAt, n.Drain, n.Lost, n.Held = kept.RelaySecret, kept.JoinedAt, kept.Drain, kept.Lost, kept.Held
	for _, h := range n.Held {
		n.take(h.Pool, h.Reserved)
		n.parts.add(h.Parts)
	}
	s.nodes = s.nodes.SetIn(s.edits, string(n.ID), n)
	return nil
}

func sessionFields(c *coder, s *Session) {
	once(c, &s.ID)
	num(c, &s.Generation)
	str(c, &s.Account)
	what(c, &s.App, &s.AppVersion, &s.Region)
	where(c, &s.Node, &s.Pool, &s.Codec)
	c.uint(&s.Reserved)
	screen(c, &s.Screen)
	life(c, &s.Joinable, &s.Ephemeral, &s.IdleMinutes)
	c.bytes((*[]byte)(&s.ExtraData))
	str(c, &s.Desired)
	str(c, &s.Observed)
	str(c, &s.Reason)
	str(c, &s.Message)
	c.time(&s.CreatedAt)
	c.bool(&s.Connected)
	c.time(&s.ViewerAt)
	placement(c, &s.Placement)
	num(c, &s.Viewer)
	list(c, &s.Codecs, str[api.Codec])
	str(c, &s.Token)
	once(c, &s.Key)
	c.bool(&s.Force)
	str(c, &s.Boot)
	c.uint(&s.Seq)
	if c.version >= 2 {
		laddered(c, &s.Placement, &s.Preset)
		c.time(&s.PlacedAt)
		waitFields(c, &s.Wait)
	}
	if c.version >= 4 {
		partsFields(c, &s.Parts)
		num(c, &s.MoreViewers)
	}
	warmFields(c, s)
}

func (s *State) loadSession(v *Session) error {
	s.sessions = s.sessions.SetIn(s.edits, string(v.ID), v)
	if v.Key != "" {
		s.keys = s.keys.SetIn(s.edits, idemKey(v.Account, v.Key), v.ID)
	}
	if v.Node == "" {
		return nil
	}
	if v.Warm {
		ids, _ := s.warm.Get(v.App)
		s.warm = s.warm.Set(v.App, ids.Set(string(v.ID), struct{}{}))
	}
	n, ok := s.nodes.Get(string(v.Node))
	if !ok {
		return fmt.Errorf("session %s stands on an unknown node: %w", v.ID, ErrEntry)
	}
	// Nobody else has the state yet: the node is changed where it is.
	n.take(v.Pool, v.Reserved)
	n.parts.add(v.Takes())
	n.sessions = n.sessions.SetIn(s.edits, string(v.ID), struct{}{})
	return nil
}
