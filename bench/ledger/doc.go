// Package ledger measures the schedulers as they are: three replicas with their
// logs on the disk and gateways before them, a fleet of simulated edges, and
// bare hashicorp/raft on the same log and with the same settings as their peer.
// What it starts it ends; everything listens on loopback.
package ledger
