// Package media holds what the media packages share: frames, the small
// interfaces between capture, encoding and transport, and the versioned frame
// protocol that joins a stream process to its encode process. No cgo.
package media
