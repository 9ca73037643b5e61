// Package bus is typed NATS: what schedulers and edges say to each other.
//
// Commands go to a node, reports and heartbeats come from it, each a request
// with a deadline; signals go both ways without an answer. Everything may be
// lost and is sent again by its sender: no message is kept anywhere. The server
// is embedded in each scheduler (Server) or an external one. Payloads are JSON.
package bus
