// Package api is the one vocabulary of Perigee: sessions, applications, nodes,
// headroom, commands, reports, signals, tickets and errors, with the pure rules
// that belong to them (validation, status of a session, cost of a stream).
// It imports the standard library only and reads no clock, no dice, no socket:
// times and random bytes come in as arguments.
package api
