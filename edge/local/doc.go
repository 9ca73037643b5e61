// Package local is how the processes of one node find and talk to each other:
// the layout of the run directory, one folder per session and generation, and
// the versioned message protocol on its unix sockets. The daemon may end under
// live sessions; the next one reads the same folders and adopts what runs.
package local
