package site

import (
	_ "embed"
	"encoding/json"
	"fmt"
)

// pageScript is what tests and bench call in a page.
//
//go:embed page.js
var pageScript string

// Viewer is a page with one stream of the real SDK.
type Viewer struct{ *Tab }

// Opened is what the page knows once the first picture showed.
type Opened struct {
	FirstFrameMS float64 `json:"firstFrameMs"`
	ID           string  `json:"id"`
	Node         string  `json:"node"`
	DistanceKM   float64 `json:"distanceKm"`
	Rank         int     `json:"rank"`
}

// Viewer opens a page of the gateway's origin, ready to connect; scripts are
// run in it first.
func (s *Site) Viewer(b *Browser, scripts ...string) (*Viewer, error) {
	tab, err := b.Open(s.API + "/")
	if err != nil {
		return nil, err
	}
	for _, script := range append([]string{pageScript}, scripts...) {
		if _, err := Eval[bool](tab, script+"\n;true"); err != nil {
			tab.Close()
			return nil, fmt.Errorf("prepare page: %w", err)
		}
	}
	return &Viewer{tab}, nil
}

// Connect opens a stream with options of the SDK, by their names there, and
// waits for the first picture.
func (v *Viewer) Connect(options map[string]any) (Opened, error) {
	b, err := json.Marshal(options)
	if err != nil {
		return Opened{}, fmt.Errorf("encode options: %w", err)
	}
	o, err := Eval[Opened](v.Tab, "site.open("+string(b)+")")
	if err != nil {
		why, _ := Eval[string](v.Tab, "JSON.stringify([site.states, site.errors, site.stream?.ended])")
		return o, fmt.Errorf("connect: %w; %s", err, why)
	}
	return o, nil
}
