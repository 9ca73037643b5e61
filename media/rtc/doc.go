// Package rtc is the server's side of one viewer's WebRTC connection: the
// signalling messages of the wire contract, offer and answer in both versions
// of it, one UDP port for all connections of a process, pictures and sound out,
// the bitrate that the way to the viewer carries, and data channels.
package rtc
