// Package gossip spreads what the nodes of a region measure of themselves, in
// tenths of a second: one memberlist ring per region, which the schedulers join.
//
// It is the fast path and may be missing or wrong: gossip informs, the
// replicated ledger decides. Whether a node is lost is for the lease to say.
package gossip
