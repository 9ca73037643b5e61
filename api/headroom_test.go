package api

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"testing"
)

var sampleHeadroom = Headroom{
	Boot: "b7", Seq: 300, CPU: 41, Memory: 12, Saturation: 41, Binding: "cpu",
	Pools: []PoolHeadroom{{Pool: PoolCPU, Free: 720_000, Sessions: 2}, {Pool: PoolNVENC, Free: 3_996_000}},
}

// goldenHeadroom is what version 1 looks like on the wire, for ever.
const goldenHeadroom = "01026237ac02290c290363707502036370" + "75c80102" + "056e76656e63" + "d60800"

func TestHeadroomGolden(t *testing.T) {
	got := hex.EncodeToString(sampleHeadroom.AppendBinary(nil))
	if got != goldenHeadroom {
		t.Errorf("encoding changed:\n%s\nwant\n%s", got, goldenHeadroom)
	}
	b, _ := hex.DecodeString(goldenHeadroom)
	h, err := ParseHeadroom(b)
	if err != nil || !reflect.DeepEqual(h, sampleHeadroom) {
		t.Errorf("read %+v, %v", h, err)
	}
}

// liveHeadroom has engines: they follow what the first version reads.
var liveHeadroom = Headroom{
	Boot: "b7", Seq: 300, CPU: 41, Memory: 12, Saturation: 77, Binding: "nvenc1",
	Pools:   []PoolHeadroom{{Pool: PoolCPU, Free: 720_000, Sessions: 2}, {Pool: PoolNVENC, Free: 3_996_000}},
	Foreign: 9, Uplink: 35,
	Engines: []EngineHeadroom{
		{Engine: "nvenc0", State: "ok", Encoder: 64, Foreign: 12, SM: 22, VRAM: 25, Sessions: 24, LatencyUS: 4100},
		{Engine: "nvenc1", State: "lost", Encoder: Unknown, Foreign: Unknown, SM: Unknown, VRAM: Unknown},
		{Engine: "vaapi0", State: "quarantined", Encoder: 0, Foreign: 0, SM: 100, VRAM: 1, Sessions: 1, LatencyUS: 900},
	},
}

const goldenLive = "01026237ac02290c4d066e76656e633102036370" + "75c80102" + "056e76656e63" + "d60800" +
	"0923" + "03" + "0000400c1619" + "1829" + "0105ffffffff" + "0000" + "400900006401" + "0109"

func TestLiveHeadroomGolden(t *testing.T) {
	b := liveHeadroom.AppendBinary(nil)
	if got := hex.EncodeToString(b); got != goldenLive {
		t.Errorf("encoding changed:\n%s\nwant\n%s", got, goldenLive)
	}
	h, err := ParseHeadroom(b)
	if err != nil || !reflect.DeepEqual(h, liveHeadroom) {
		t.Errorf("read %+v, %v", h, err)
	}
	// What a later version appends is passed over.
	if h, err = ParseHeadroom(append(b, 0, 0, 3)); err != nil || !reflect.DeepEqual(h, liveHeadroom) {
		t.Errorf("with more behind: %+v, %v", h, err)
	}
	// What is foreign of memory and of the way out came later, behind the engines.
	later := liveHeadroom
	later.ForeignMemory, later.ForeignUplink = 7, 21
	b = later.AppendBinary(nil)
	if got := hex.EncodeToString(b); got != goldenLive+"0715" {
		t.Errorf("encoding changed:\n%s", got)
	}
	if h, err = ParseHeadroom(b); err != nil || !reflect.DeepEqual(h, later) {
		t.Errorf("read %+v, %v", h, err)
	}
	if h, err = ParseHeadroom(b[:len(b)-1]); err != nil || h.ForeignMemory != 0 {
		t.Errorf("cut: %+v, %v", h, err)
	}
	many := liveHeadroom
	many.Engines = nil
	for i := range 20 {
		many.Engines = append(many.Engines, EngineHeadroom{Engine: fmt.Sprint("nvenc", i), State: "ok", Encoder: 50, Sessions: 20, LatencyUS: 5000})
	}
	b = many.AppendBinary(nil)
	h, err = ParseHeadroom(b)
	if err != nil || len(h.Engines) != 16 || len(b) > 200 {
		t.Errorf("%d bytes, %d engines, %v", len(b), len(h.Engines), err)
	}
	odd := liveHeadroom
	for _, s := range engineStates {
		odd.Engines = []EngineHeadroom{{Engine: "vaapi3", State: s}}
		if h, err = ParseHeadroom(odd.AppendBinary(nil)); err != nil || len(h.Engines) != 1 || h.Engines[0].State != s {
			t.Errorf("state %s: %+v, %v", s, h.Engines, err)
		}
	}
	odd.Engines = []EngineHeadroom{{Engine: "cpu"}, {Engine: "nvenc99"}, {Engine: "nvenc3", State: "melted", Encoder: 400}}
	h, err = ParseHeadroom(odd.AppendBinary(nil))
	if err != nil || len(h.Engines) != 1 || h.Engines[0].State != "failed" || h.Engines[0].Encoder != 100 {
		t.Errorf("what has no code: %+v, %v", h.Engines, err)
	}
}

func TestHeadroomRefusesCutAndUnknown(t *testing.T) {
	b := sampleHeadroom.AppendBinary(nil)
	for n := range b {
		if _, err := ParseHeadroom(b[:n]); !errors.Is(err, ErrHeadroom) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	b[0] = 9
	if _, err := ParseHeadroom(b); !errors.Is(err, ErrHeadroom) {
		t.Errorf("version 9: %v", err)
	}
}

func FuzzParseHeadroom(f *testing.F) {
	f.Add(sampleHeadroom.AppendBinary(nil))
	f.Add(liveHeadroom.AppendBinary(nil))
	later := liveHeadroom
	later.ForeignMemory, later.ForeignUplink = 7, 21
	f.Add(later.AppendBinary(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeadroom(b)
		if err != nil {
			return
		}
		again, err := ParseHeadroom(h.AppendBinary(nil))
		if err != nil || !bytes.Equal(again.AppendBinary(nil), h.AppendBinary(nil)) {
			t.Errorf("%x does not survive a round trip: %v", b, err)
		}
	})
}
