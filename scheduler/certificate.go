package scheduler

import "github.com/perigee-cloud/perigee/api"

// checkCertificate makes sure that a node offers no more than it was measured to
// carry, by a certificate that it signed.
func checkCertificate(n api.Node) error {
	if n.Certificate == nil {
		return nil
	}
	c, err := n.Certificate.Open(n.PublicKey)
	if err != nil {
		return &api.Error{Code: api.CodeInvalid, Field: "node.certificate", Message: "cannot be believed: have the node measure again", Err: err}
	}
	for _, p := range n.Pools {
		if _, ok := c.Certified(p.Pool); !ok {
			continue
		}
		var most uint64 // at the costs that the node states: a codec made cheap makes it less
		for _, e := range c.Shares(p) {
			most += e.Macroblocks
		}
		if p.Macroblocks > most {
			return api.Invalidf("node.pools", "pool %s offers %d macroblocks/s; at its cost factors its certificate says %d", p.Pool, p.Macroblocks, most)
		}
	}
	return nil
}
