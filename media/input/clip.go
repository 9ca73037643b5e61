package input

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/perigee-cloud/perigee/api"
)

// MaxClip bounds what is copied at once in bytes.
const MaxClip = 8 << 20

// Types of a Clip.
const (
	ClipText = "text/plain" // UTF-8
	ClipPNG  = "image/png"
)

// Clip is what somebody copied.
type Clip struct {
	Type string
	Data []byte
}

// Check refuses what is none of the two types, too large, or not what it says.
func (c Clip) Check() error {
	switch {
	case len(c.Data) > MaxClip:
		return api.Errorf(api.CodeTooLarge, "at most %d MiB are copied at once", MaxClip>>20)
	case c.Type == ClipText:
		if !utf8.Valid(c.Data) {
			return api.Invalidf("type", "the text is not UTF-8")
		}
	case c.Type == ClipPNG:
		if !bytes.HasPrefix(c.Data, []byte("\x89PNG\r\n\x1a\n")) { // PNG specification, 5.2
			return api.Invalidf("type", "the picture is not PNG")
		}
	default:
		return api.Invalidf("type", "%q is not copied; use %s or %s", c.Type, ClipText, ClipPNG)
	}
	return nil
}

func (c Clip) equal(o Clip) bool { return c.Type == o.Type && bytes.Equal(c.Data, o.Data) }

// latin1 is the text for programs that know X's STRING only.
func latin1(text []byte) []byte {
	var b []byte
	for _, r := range string(text) {
		if r > 0xff {
			r = '?'
		}
		b = append(b, byte(r))
	}
	return b
}

func fromLatin1(b []byte) []byte {
	var s strings.Builder
	for _, c := range b {
		s.WriteRune(rune(c))
	}
	return []byte(s.String())
}
