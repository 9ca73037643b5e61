package state

import (
	"cmp"
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// maxWaiting bounds the queue whatever its operator allows.
const maxWaiting = 10_000

// Wait is a session's place in the queue: it holds no reservation.
type Wait struct {
	// Turn orders the queue: every account's waiting sessions are numbered from
	// the turn that is served on, so that those of one account come after the
	// others' of the same number. Seq orders those of one turn.
	Turn, Seq uint64
	Until     time.Time // then it ends
	Ask       Ask
}

// Ask is what a placement needs to know beside the session itself.
type Ask struct {
	Region  string // that was asked for
	Client  api.Location
	Network string // of the client, as a prefix
	ASN     uint32
	Probes  []api.Probe
}

// waiting is one entry of the queue, which is ordered.
type waiting struct {
	turn, seq uint64
	id        api.SessionID
	account   string
}

func (w waiting) compare(o waiting) int {
	return cmp.Or(cmp.Compare(w.turn, o.turn), cmp.Compare(w.seq, o.seq))
}

// queue holds who waits, first come first served within an account, and in
// turns between accounts.
type queue struct {
	list   []waiting // never changed in place
	served uint64    // turn of the last one that was placed
	seq    uint64
}

func (q *queue) add(account string, id api.SessionID) (turn, seq uint64) {
	turn = q.served
	for _, w := range q.list {
		if w.account == account {
			turn = max(turn, w.turn)
		}
	}
	q.seq++
	w := waiting{turn: turn + 1, seq: q.seq, id: id, account: account}
	at, _ := slices.BinarySearchFunc(q.list, w, waiting.compare)
	q.list = slices.Insert(slices.Clone(q.list), at, w)
	return w.turn, w.seq
}

func (q *queue) drop(id api.SessionID) {
	q.list = slices.DeleteFunc(slices.Clone(q.list), func(w waiting) bool { return w.id == id })
}

// Waiting walks the sessions that wait, the next one to be placed first.
func (s *State) Waiting(yield func(*Session) bool) {
	for _, w := range s.queue.list {
		if v, ok := s.Live(w.id); ok && !yield(v) {
			return
		}
	}
}

// Shown is a live session as the API knows it.
func (s *State) Shown(v *Session) api.Session { return s.shown(v) }

// WaitingCount is how many sessions wait.
func (s *State) WaitingCount() int { return len(s.queue.list) }

// shown is a session as the API knows it, with its place in the queue.
func (s *State) shown(v *Session) api.Session {
	c := v.Session
	if v.Wait != nil {
		c.Queue = s.placeOf(v)
	}
	return c
}

// placeOf works out a waiting session's position and when it may be placed.
func (s *State) placeOf(v *Session) *api.QueuePlace {
	at := slices.IndexFunc(s.queue.list, func(w waiting) bool { return w.id == v.ID })
	p := &api.QueuePlace{Position: at + 1, Length: len(s.queue.list), Until: v.Wait.Until}
	if every := s.endEvery(); every > 0 {
		p.EtaS = min(int64(time.Duration(p.Position)*every/time.Second)+1, int64(v.Wait.Until.Sub(s.Now())/time.Second)+1)
	}
	return p
}

// paceOf bounds the ended sessions that tell how often room is made.
const paceOf = 32

// endEvery is how much time lies between the ends of sessions that held a
// reservation, by the last ones; 0 when fewer than two are known.
func (s *State) endEvery() time.Duration {
	oldest, n := s.last, 0
	for id := range s.finished.newest() {
		if v, ok := s.finished.get(id); ok && v.Node != "" {
			oldest = v.EndedAt.UnixNano()
			if n++; n == paceOf {
				break
			}
		}
	}
	if n < 2 {
		return 0
	}
	return time.Duration(s.last-oldest) / time.Duration(n) // the time since the last one counts
}

// Queue lets a session wait that no node has room for.
type Queue struct {
	Create Create // without node, pool and reservation
	Until  time.Time
	Ask    Ask
	// Limit and AccountLimit bound the queue, and what of it one account takes.
	Limit, AccountLimit int
}

func (*Queue) kind() kind { return kindQueue }

func (m *Queue) fields(c *coder) {
	m.Create.fields(c)
	c.time(&m.Until)
	m.Ask.fields(c)
	num(c, &m.Limit)
	num(c, &m.AccountLimit)
}

func (a *Ask) fields(c *coder) {
	texts(c, &a.Region, &a.Network)
	num(c, &a.ASN)
	l := &a.Client
	c.bool(&l.Known)
	for _, v := range []*float64{&l.Latitude, &l.Longitude, &l.RadiusKM} {
		c.float(v)
	}
	texts(c, &l.Source, &l.City)
	list(c, &a.Probes, func(c *coder, p *api.Probe) {
		str(c, &p.Node)
		c.float(&p.RoundTripMS)
		c.bool(&p.Silent)
	})
}

func (m *Queue) apply(t *tx) Result {
	if r, found := t.earlier(&m.Create); found {
		return r
	}
	if err := t.creatable(&m.Create); err != nil {
		return Result{Err: err}
	}
	mine := 0
	for _, w := range t.queue.list {
		if w.account == m.Create.Account {
			mine++
		}
	}
	switch {
	case len(t.queue.list) >= min(m.Limit, maxWaiting):
		return Result{Err: api.Errorf(api.CodeNoCapacity, "no node has room and the queue is full: %d sessions wait", len(t.queue.list))}
	case mine >= m.AccountLimit:
		return Result{Err: api.Errorf(api.CodeNoCapacity, "no node has room and %d sessions of this account wait, the most that may", mine)}
	}
	if err := t.use(m.Create.Token); err != nil {
		return Result{Err: err}
	}
	s := m.Create.session(t.now)
	s.Node, s.Pool, s.Reserved, s.Parts, s.Observed = "", "", 0, api.Parts{}, api.ObservedNone
	s.Wait = &Wait{Until: m.Until, Ask: m.Ask}
	s.Wait.Turn, s.Wait.Seq = t.queue.add(s.Account, s.ID)
	t.keep(s)
	return t.sessionResult(s)
}

// Place gives a session its place: one that waited, or one whose node is lost.
type Place struct {
	ID         api.SessionID
	From       api.Generation // of the session as it was placed from
	Generation api.Generation // from here on
	Node       api.NodeID
	Pool       api.Pool
	Codec      api.Codec
	Region     string
	Codecs     []api.Codec
	Reserved   uint64
	Screen     api.Screen
	Placement  api.Placement
	Preset     api.Preset
	Parts      api.Parts // beside the pool; from version 4 on
}

func (*Place) kind() kind { return kindPlace }

func (m *Place) fields(c *coder) {
	str(c, &m.ID)
	num(c, &m.From)
	num(c, &m.Generation)
	where(c, &m.Node, &m.Pool, &m.Codec)
	str(c, &m.Region)
	list(c, &m.Codecs, str[api.Codec])
	c.uint(&m.Reserved)
	screen(c, &m.Screen)
	placement(c, &m.Placement)
	laddered(c, &m.Placement, &m.Preset)
	partsFields(c, &m.Parts)
}

func (m *Place) apply(t *tx) Result {
	s, ok := t.change(m.ID)
	lost := ok && s.Observed == api.ObservedLost && m.Generation == m.From+1 && m.Node != s.Node
	if !ok || s.Desired == api.DesiredStop || s.Generation != m.From || s.Wait == nil && !lost {
		return Result{Err: api.Errorf(api.CodeConflict, "session %q is not to be placed any more", m.ID)}
	}
	parts := api.Session{Parts: m.Parts, MoreViewers: s.MoreViewers} // its shares go with it
	if err := t.reserve(claim{m.ID, m.Node, m.Pool, m.Codec, m.Reserved, parts.Takes()}); err != nil {
		return Result{Err: err}
	}
	if s.Wait != nil {
		t.queue.served = max(t.queue.served, s.Wait.Turn)
		t.queue.drop(s.ID)
		s.Wait = nil
	} else {
		t.hold(s) // until the lost node is back and says that it does not run it
	}
	s.Generation, s.Node, s.Pool, s.Codec, s.Region = m.Generation, m.Node, m.Pool, m.Codec, m.Region
	s.Codecs, s.Reserved, s.Screen, s.Placement, s.Preset = m.Codecs, m.Reserved, m.Screen, m.Placement, m.Preset
	s.Parts = m.Parts
	s.Observed, s.Reason, s.Message, s.Boot, s.Seq = api.ObservedNone, api.ReasonNone, "", "", 0
	s.Connected, s.ViewerAt, s.PlacedAt = false, time.Time{}, t.now
	t.put(s)
	return t.sessionResult(s)
}

// leave takes a session out of the queue. A use of its token was not taken.
func (t *tx) leave(s *Session) {
	t.queue.drop(s.ID)
	s.Wait = nil
	if tok, ok := t.tokens.Get(s.Token); ok && tok.Uses >= 0 {
		c := *tok
		c.Uses++
		t.tokens = t.tokens.Set(s.Token, &c)
	}
}

// waitFields writes or reads whether a session waits, and its place.
func waitFields(c *coder, p **Wait) {
	waits := *p != nil
	c.bool(&waits)
	if !waits {
		return
	}
	if c.reading {
		*p = &Wait{}
	}
	w := *p
	c.uint(&w.Turn)
	c.uint(&w.Seq)
	c.time(&w.Until)
	w.Ask.fields(c)
}

// requeue makes the queue of a snapshot's sessions anew.
func (s *State) requeue() {
	for _, v := range s.sessions.All() {
		if v.Wait != nil {
			s.queue.list = append(s.queue.list, waiting{turn: v.Wait.Turn, seq: v.Wait.Seq, id: v.ID, account: v.Account})
		}
	}
	slices.SortFunc(s.queue.list, waiting.compare)
}
