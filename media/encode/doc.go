// Package encode turns pictures into video packets and sound into Opus
// packets: one in, one out, nothing held back. FFmpeg's encoders through
// go-astiav, conversion by libyuv. All of it is C underneath: only the encode
// process may link it.
package encode
