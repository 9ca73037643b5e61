package api

// MaxLogPart bounds one part of an instance's log in bytes.
const MaxLogPart = 64 << 10

// LogQuery asks for a part of what an instance's application wrote. Offsets
// count bytes from the first that was ever written.
type LogQuery struct {
	Session    SessionID  `json:"session"`
	Generation Generation `json:"generation"`
	Offset     int64      `json:"offset"`         // from here; what was dropped meanwhile is left out
	Tail       int        `json:"tail,omitempty"` // instead: so many bytes from the end
}

// LogPart is a part of a log, at most MaxLogPart bytes.
type LogPart struct {
	Text  string `json:"text"`
	From  int64  `json:"from"`  // offset of the first byte
	Next  int64  `json:"next"`  // offset to go on from
	Ended bool   `json:"ended"` // the instance has ended and this is the last part
}
