// Package instance is the body of the shim process: one per session, it runs
// the session's application on an X server and a sound server of its own, in a
// sandbox with bounds, and leaves nothing behind when it ends. It outlives the
// daemon and talks to it by edge/local.
package instance
