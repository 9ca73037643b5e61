package state

import (
	"fmt"

	"github.com/perigee-cloud/perigee/api"
)

// What entries of version 2 and later brought: sections that a snapshot has only when
// there is something in them, so that replicas of version 1 never meet one.

func (s *State) writeLater(out *snapshotWriter) {
	if s.queue.seq > 0 {
		out.put(sectionQueue, func(c *coder) { queueFields(c, &s.queue) })
	}
	for id, i := range s.instances.Sorted() {
		session := api.SessionID(id)
		out.put(sectionInstance, func(c *coder) { instanceFields(c, &session, i) })
		if i.protected {
			out.put(sectionProtected, func(c *coder) { str(c, &session) })
		}
	}
	for id, v := range s.shares.Sorted() {
		session := api.SessionID(id)
		out.put(sectionShares, func(c *coder) { sharesFields(c, &session, v) })
	}
	for _, p := range s.pools.Sorted() {
		out.put(sectionPool, func(c *coder) { c.bytes(&p.doc) })
	}
	for account, p := range s.policies.Sorted() {
		out.put(sectionPolicy, func(c *coder) {
			str(c, &account)
			c.bytes(&p.doc)
		})
	}
	for _, n := range s.networks.Sorted() {
		out.put(sectionRoutes, func(c *coder) { list(c, &n.routes, routeFields) })
	}
}

func queueFields(c *coder, q *queue) {
	c.uint(&q.served)
	c.uint(&q.seq)
}

func (s *State) loadLater(section uint64, c *coder) error {
	c.version = EntryVersion
	switch section {
	case sectionSession2, sectionSession4, sectionSession5:
		if old, ok := map[uint64]int{sectionSession2: 2, sectionSession4: 4}[section]; ok {
			c.version = old
		}
		v := &Session{}
		sessionFields(c, v)
		return s.loadSession(v)
	case sectionNode4:
		return s.loadNode(c)
	case sectionInstance:
		var id api.SessionID
		i := &instance{}
		instanceFields(c, &id, i)
		s.instances = s.instances.Set(string(id), i)
	case sectionProtected:
		var id api.SessionID
		str(c, &id)
		i, ok := s.instances.Get(string(id))
		if c.err != nil || !ok {
			return fmt.Errorf("an unknown instance is protected: %w", ErrEntry)
		}
		kept := *i
		kept.protected = true
		s.instances = s.instances.Set(string(id), &kept)
	case sectionShares:
		var id api.SessionID
		v := &shares{}
		sharesFields(c, &id, v)
		s.shares = s.shares.Set(string(id), v)
	case sectionQueue:
		queueFields(c, &s.queue)
	case sectionPool:
		var doc []byte
		if c.bytes(&doc); c.err != nil {
			return c.err
		}
		p, err := parsePool(doc)
		if err != nil {
			return err
		}
		s.pools = s.pools.Set(poolKey(p.App, p.Region), p)
	case sectionPolicy:
		var account string
		var doc []byte
		str(c, &account)
		c.bytes(&doc)
		if c.err != nil {
			return c.err
		}
		p, err := parsePolicy(doc)
		if err != nil {
			return err
		}
		s.policies = s.policies.Set(account, p)
	case sectionRoutes:
		n := &network{}
		list(c, &n.routes, routeFields)
		if len(n.routes) == 0 || len(n.routes) > MaxRoutes {
			return fmt.Errorf("a network of %d routes: %w", len(n.routes), ErrEntry)
		}
		s.networks = s.networks.Set(n.routes[0].Network, n)
	default:
		return fmt.Errorf("unknown section: %w", ErrEntry)
	}
	return nil
}
