package api

import (
	"bytes"
	"encoding/hex"
	"errors"
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
