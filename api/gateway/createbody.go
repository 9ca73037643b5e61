package gateway

import (
	"encoding/json"
	"strconv"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

// readCreate reads the body of a create. Bodies in the plain form that the SDKs
// send are read by hand, which takes a fifth of what reflection does; any other,
// and every wrong one, is left to readBody's way, whose word counts.
func readCreate(c *gin.Context, into *api.CreateBody) error {
	body, err := bodyOf(c)
	if err != nil {
		return err
	}
	if p := (plain{text: string(body)}); p.create(into) {
		return nil
	}
	*into = api.CreateBody{}
	return decode(body, into)
}

// plain reads JSON objects of known keys, each at most once, with strings of
// printable ASCII without escapes. What differs ends it.
type plain struct {
	text string
	at   int
	bad  bool // not in the plain form, or no JSON
}

func (p *plain) fail() { p.bad = true }

// skip passes white space.
func (p *plain) skip() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\r', '\n':
			p.at++
		default:
			return
		}
	}
}

// is passes one character if it comes next.
func (p *plain) is(c byte) bool {
	p.skip()
	if p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *plain) want(c byte) {
	if !p.is(c) {
		p.fail()
	}
}

// word passes a literal if it comes next.
func (p *plain) word(w string) bool {
	p.skip()
	if len(p.text)-p.at >= len(w) && p.text[p.at:p.at+len(w)] == w {
		p.at += len(w)
		return true
	}
	return false
}

func (p *plain) str() string {
	p.want('"')
	for i := p.at; !p.bad && i < len(p.text); i++ {
		switch c := p.text[i]; {
		case c == '"':
			s := p.text[p.at:i]
			p.at = i + 1
			return s
		case c < ' ' || c > '~' || c == '\\':
			p.fail()
		}
	}
	p.fail()
	return ""
}

func (p *plain) flag() bool {
	if p.word("true") {
		return true
	}
	if !p.word("false") {
		p.fail()
	}
	return false
}

// digits passes at least one.
func (p *plain) digits() {
	from := p.at
	for p.at < len(p.text) && p.text[p.at] >= '0' && p.text[p.at] <= '9' {
		p.at++
	}
	if p.at == from {
		p.fail()
	}
}

// number passes a number as JSON writes it, with a fraction but no exponent.
func (p *plain) number() (text string, whole bool) {
	p.skip()
	from := p.at
	if p.at < len(p.text) && p.text[p.at] == '-' {
		p.at++
	}
	lead := p.at
	p.digits()
	if p.at-lead > 1 && p.text[lead] == '0' {
		p.fail()
	}
	whole = true
	if p.at < len(p.text) && p.text[p.at] == '.' {
		p.at++
		p.digits()
		whole = false
	}
	return p.text[from:p.at], whole
}

func (p *plain) int() int {
	text, whole := p.number()
	v, err := strconv.Atoi(text)
	if err != nil || !whole {
		p.fail()
	}
	return v
}

func (p *plain) float() float64 {
	text, _ := p.number()
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		p.fail()
	}
	return v
}

// object passes one, giving each value to read by its key. A key that read does
// not know, or one that comes twice, is not plain.
func (p *plain) object(keys []string, read func(key int)) {
	p.want('{')
	if p.is('}') {
		return
	}
	seen := 0
	for !p.bad {
		name, key := p.str(), -1
		for i, k := range keys {
			if k == name {
				key = i
			}
		}
		p.want(':')
		if key < 0 || seen&(1<<key) != 0 || p.bad {
			p.fail()
			return
		}
		seen |= 1 << key
		read(key)
		if p.is('}') {
			return
		}
		p.want(',')
	}
}

// create reads a whole body.
func (p *plain) create(b *api.CreateBody) bool {
	keys := [...]string{"app", "joinable", "screen", "extra_data", "perigee", "region", "ephemeral", "app_version", "idle_time_min"}
	p.object(keys[:], func(key int) {
		switch key {
		case 0:
			b.App = p.str()
		case 1:
			b.Joinable = p.flag()
		case 2:
			b.Screen = p.screen()
		case 3:
			if !p.word("null") {
				p.fail()
			}
			b.ExtraData = json.RawMessage("null")
		case 4:
			b.Perigee = p.extras()
		case 5:
			b.Region = p.str()
		case 6:
			v := p.flag()
			b.Ephemeral = &v
		case 7:
			b.AppVersion = p.int()
		case 8:
			v := p.int()
			b.IdleMinutes = &v
		}
	})
	p.skip()
	return !p.bad && p.at == len(p.text)
}

func (p *plain) screen() *api.ScreenBody {
	var v struct {
		body api.ScreenBody
		n    [4]int
	}
	keys := [...]string{"width", "height", "fps", "density"}
	into := [...]**int{&v.body.Width, &v.body.Height, &v.body.FPS, &v.body.Density}
	p.object(keys[:], func(key int) {
		v.n[key] = p.int()
		*into[key] = &v.n[key]
	})
	return &v.body
}

func (p *plain) extras() *api.RequestExtras {
	v := &api.RequestExtras{}
	keys := [...]string{"idempotency_key", "location", "client_address", "wait_s", "codecs"}
	p.object(keys[:], func(key int) {
		switch key {
		case 0:
			v.IdempotencyKey = p.str()
		case 1:
			v.Location = p.location()
		case 2:
			v.ClientAddress = p.str()
		case 3:
			v.WaitS = p.int()
		case 4:
			v.Codecs = p.strings()
		}
	})
	return v
}

func (p *plain) strings() []string {
	p.want('[')
	out := []string{}
	if p.is(']') {
		return out
	}
	for !p.bad {
		out = append(out, p.str())
		if p.is(']') {
			break
		}
		p.want(',')
	}
	return out
}

func (p *plain) location() *api.LocationBody {
	var v struct {
		body api.LocationBody
		n    [2]float64
	}
	keys := [...]string{"latitude", "longitude", "radius_km"}
	p.object(keys[:], func(key int) {
		switch f := p.float(); key {
		case 0:
			v.n[0] = f
			v.body.Latitude = &v.n[0]
		case 1:
			v.n[1] = f
			v.body.Longitude = &v.n[1]
		default:
			v.body.RadiusKM = f
		}
	})
	return &v.body
}
