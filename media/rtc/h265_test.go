package rtc

import (
	"bytes"
	_ "embed"
	"slices"
	"testing"

	"github.com/pion/rtp/codecs"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
)

// Three pictures of 320x192 by libx265: a key with its parameter sets, and two
// that follow.
//
//go:embed testdata/three-pictures.h265
var threePictures []byte

// units splits a stream at its start codes.
func units(b []byte) (out [][]byte) {
	for u := range bytes.SplitSeq(b, []byte{0, 0, 1}) {
		if u = bytes.TrimRight(u, "\x00"); len(u) > 0 {
			out = append(out, u)
		}
	}
	return out
}

// What an encoder of H.265 wrote arrives as it was, in packets that fit.
func TestH265Travels(t *testing.T) {
	all := units(threePictures)
	if len(all) != 6 {
		t.Fatalf("%d units", len(all))
	}
	pictures := [][][]byte{all[:4], all[4:5], all[5:]}
	tr, out := newBound(t, api.H265)
	var in codecs.H265Depacketizer
	var got [][]byte
	for i, p := range pictures {
		var data []byte
		for _, u := range p {
			data = append(append(data, 0, 0, 0, 1), u...)
		}
		if isKeyOf(api.H265, data) != (i == 0) || isKeyOf(api.H264, data) && i == 0 {
			t.Errorf("picture %d counts as a key: %v", i, i != 0)
		}
		if _, usable, err := tr.write(media.Frame{Kind: media.Video, Key: i == 0, Data: data}); err != nil || !usable {
			t.Fatalf("picture %d: usable %v, %v", i, usable, err)
		}
	}
	for _, p := range out.packets {
		if len(p.Payload) > packetSize {
			t.Errorf("a packet of %d bytes", len(p.Payload))
		}
		b, err := in.Unmarshal(p.Payload)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, b)
	}
	if back := units(bytes.Join(got, nil)); !slices.EqualFunc(back, all, bytes.Equal) {
		t.Errorf("%d units arrived of %d, or others", len(back), len(all))
	}
	if len(out.packets) < 6 {
		t.Errorf("%d packets: no unit was cut", len(out.packets))
	}
}
