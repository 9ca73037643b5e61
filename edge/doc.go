// Package edge is the daemon of an edge node: it takes commands, starts and
// supervises the processes of each session, reports what it observes and says
// how much room the node has. Sessions outlive it: the next daemon adopts them
// from the run directory. It never enters C.
package edge
