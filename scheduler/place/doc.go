// Package place decides which node hosts a session: filter, score, explain. It
// is pure: the ledger, the leases and the live measurements come in as
// arguments, so tests and simulations run the very same code.
package place
