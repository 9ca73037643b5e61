package stream

import (
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
)

const msec = int64(time.Millisecond)

// drawnAt is a picture that was drawn at a time (ms) and took 2 ms to be taken,
// 3 to be encoded.
func drawnAt(at int64, input uint64) media.Frame {
	return media.Frame{Kind: media.Video, Drawn: at * msec, Captured: (at + 2) * msec, Encoded: (at + 5) * msec, Input: input}
}

func (m *meter) count(s api.Stage) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.measured.Stages[s].Count
}

func TestMeterNamesTheFirstPictureOfAnInput(t *testing.T) {
	var m meter
	m.listen()
	m.input(injected{id: 1, client: 11, came: 10 * msec, at: 11 * msec})
	m.input(injected{id: 2, client: 12, came: 13 * msec, at: 14 * msec})
	m.input(injected{id: 3, client: 13, came: 30 * msec, at: 31 * msec})
	told := m.picture(drawnAt(20, 2), 77, 26*msec)
	want := map[api.Stage]float64{api.StageInput: 1, api.StageApplication: 9, api.StageCapture: 2, api.StageEncode: 3, api.StageSend: 1}
	if told == nil || told.Stamp != 77 || told.Input != 11 {
		t.Fatalf("told %+v, want input 11 (the oldest) at 77", told)
	}
	for s, ms := range want {
		if told.MS[s] != ms {
			t.Errorf("%s took %v ms, want %v", s, told.MS[s], ms)
		}
	}
	if told := m.picture(drawnAt(40, 3), 78, 46*msec); told == nil || told.Input != 13 {
		t.Errorf("the next picture's input: %+v, want 13", told)
	}
	// The same drawing once more, only sharper, says nothing.
	if told := m.picture(drawnAt(40, 3), 79, 500*msec); told != nil {
		t.Errorf("a picture made sharper was told: %+v", told)
	}
	if told := m.picture(drawnAt(600, 3), 80, 606*msec); told == nil || told.Input != 0 || told.MS[api.StageApplication] != 0 {
		t.Errorf("a picture without an input: %+v", told)
	}
	if told := m.picture(drawnAt(650, 3), 81, 656*msec); told != nil {
		t.Errorf("told again after 50 ms: %+v", told)
	}
	if l := m.take(); l == nil || l.Stages[api.StageApplication].Count != 2 || l.Stages[api.StageEncode].Count != 4 || m.take() != nil {
		t.Errorf("measured %+v, want two inputs and four pictures, once", l)
	}
}

func TestMeterLeavesOutInputsWithoutEffect(t *testing.T) {
	var m meter
	m.listen()
	m.input(injected{id: 1, client: 1, came: 0, at: 1 * msec})
	if told := m.picture(drawnAt(3000, 1), 1, 3006*msec); told == nil || told.Input != 0 {
		t.Errorf("an input of three seconds ago: %+v", told)
	}
	for i := range uint64(3 * inputsMost) {
		m.input(injected{id: 2 + i, at: 3000 * msec})
	}
	if len(m.inputs) > inputsMost {
		t.Errorf("%d inputs wait, want %d at most", len(m.inputs), inputsMost)
	}
}

func TestMeterBelievesOnlyAnswers(t *testing.T) {
	var m meter
	answer := []byte(`{"ms":{"network":4,"total":20,"encode":1,"present":-1,"decode":1e9}}`)
	if err := m.shown(answer); err != nil || m.count(api.StageTotal) != 0 {
		t.Errorf("an answer to nothing counted: %v", err)
	}
	m.picture(drawnAt(1, 0), 1, 7*msec) // the page does not listen: nothing is owed
	if m.owed != 0 {
		t.Error("a page that does not listen owes an answer")
	}
	m.listen()
	m.picture(drawnAt(400, 0), 1, 406*msec)
	if err := m.shown([]byte(`{"ms":"x"}`)); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("nonsense: %v", err)
	}
	for range 3 {
		if err := m.shown(answer); err != nil {
			t.Fatal(err)
		}
	}
	for s, want := range map[api.Stage]uint64{api.StageTotal: 1, api.StageNetwork: 1, api.StageEncode: 2, api.StagePresent: 0, api.StageDecode: 0} {
		if got := m.count(s); got != want {
			t.Errorf("%s was counted %d times, want %d", s, got, want)
		}
	}
	m.joined()
	if m.owed != 0 || m.listens || m.count(api.StageTotal) != 1 {
		t.Error("another page: it starts afresh, and what was measured stays")
	}
}
