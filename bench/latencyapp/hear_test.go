package main

import (
	"encoding/binary"
	"testing"
)

func TestLevelFindsTheTone(t *testing.T) {
	var mono []byte
	stereo := tone(nil, 0, 9600)
	for i := 0; i < len(stereo); i += 4 {
		mono = append(mono, stereo[i:i+2]...)
	}
	if l := level(mono, pitch); l < 0.24 || l > 0.25 { // 8000 of 32768
		t.Errorf("the tone's level is %.4f", l)
	}
	if l := level(mono, 2*pitch); l > 0.01 {
		t.Errorf("its octave's is %.4f", l)
	}
	if l := level(binary.LittleEndian.AppendUint64(nil, 0), pitch); l != 0 {
		t.Errorf("silence has %.4f", l)
	}
}
