// Package scheduler is one replica of the control plane: it holds the
// replicated state (scheduler/state) by Raft, places sessions
// (scheduler/place), sends commands to the edges until what is desired is
// observed, and keeps their leases. Server has the methods that the gateway
// asks for.
package scheduler
