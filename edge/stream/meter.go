package stream

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
)

// Types of message of the latency meter on the control channel. A page that
// takes part says so first; others hear nothing of it.
const (
	typeMeter = "perigee::meter" // page → us: tell me of pictures
	typeFrame = "perigee::frame" // us → page: pictureTold
	typeShown = "perigee::shown" // page → us: pictureShown, the answer to one
)

const (
	// An input whose picture comes later had no effect of its own.
	effectMost = time.Second
	// Without inputs, the page is told of a picture this often.
	tellEvery  = 250 * time.Millisecond
	inputsMost = 512 // not shown yet
	owedMost   = 256 // told and not answered
)

// injected is an input on its way to a picture.
type injected struct {
	id, client uint64 // ours, and the page's own (0 = none)
	came, at   int64  // media.Now when its message came and when the X server had it
}

// pictureTold says what our side of a picture took.
type pictureTold struct {
	Stamp uint32                `json:"rtp"`
	Input uint64                `json:"input,omitempty"` // the page's id of the first input that it may show
	MS    map[api.Stage]float64 `json:"ms"`
}

// pictureShown is what the page measured of a picture that it was told of.
type pictureShown struct {
	MS map[api.Stage]float64 `json:"ms"`
}

// meter measures where the time from an input to its picture goes. Its methods
// may be called from many goroutines; none waits.
type meter struct {
	mu       sync.Mutex
	inputs   []injected // not shown yet, oldest first
	drawn    int64      // of the newest picture that was freshly drawn
	told     int64      // when the page was last told
	owed     int        // answers that the page owes
	listens  bool       // the page takes part
	measured api.Latency
	fresh    bool // measured changed since take
}

// joined starts with a new page.
func (m *meter) joined() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inputs, m.owed, m.listens = nil, 0, false
}

// listen notes that the page takes part.
func (m *meter) listen() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listens = true
}

func (m *meter) input(i injected) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.inputs) >= inputsMost {
		m.inputs = append(m.inputs[:0], m.inputs[inputsMost/2:]...)
	}
	m.inputs = append(m.inputs, i)
}

func ms(from, to int64) float64 { return float64(to-from) / 1e6 }

// picture counts a video frame that was sent by now under stamp; it gives what
// the page is to be told, nil for nothing.
func (m *meter) picture(f media.Frame, stamp uint32, now int64) *pictureTold {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f.Drawn == 0 || f.Drawn == m.drawn { // not told, or a picture that is only made sharper
		return nil
	}
	m.drawn = f.Drawn
	took := map[api.Stage]float64{
		api.StageCapture: ms(f.Drawn, f.Captured), api.StageEncode: ms(f.Captured, f.Encoded), api.StageSend: ms(f.Encoded, now),
	}
	i, ok := m.first(f)
	if ok {
		took[api.StageApplication] = ms(i.at, f.Drawn)
	}
	for s, v := range took {
		m.measured.Add(s, v)
	}
	m.fresh = true
	if !m.listens || !(ok && i.client != 0) && time.Duration(now-m.told) < tellEvery {
		return nil
	}
	m.told = now
	m.owed = min(m.owed+1, owedMost)
	if ok {
		took[api.StageInput] = ms(i.came, i.at)
	}
	return &pictureTold{Stamp: stamp, Input: i.client, MS: took}
}

// first takes off the inputs that a picture may show and gives the oldest: the
// one that waited longest. mu is held.
func (m *meter) first(f media.Frame) (injected, bool) {
	var oldest injected
	n := 0
	for ; n < len(m.inputs) && m.inputs[n].id <= f.Input; n++ {
		i := m.inputs[n]
		if oldest.id == 0 && i.at <= f.Drawn && time.Duration(f.Drawn-i.at) < effectMost {
			oldest = i
		}
	}
	m.inputs = append(m.inputs[:0], m.inputs[n:]...)
	return oldest, oldest.id != 0
}

// shown takes what the page measured: only in answer to what it was told, and
// only the stages that are its own.
func (m *meter) shown(data []byte) error {
	var p pictureShown
	if err := json.Unmarshal(data, &p); err != nil {
		return api.Invalidf(typeShown, "%v", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.owed == 0 {
		return nil
	}
	m.owed--
	for _, s := range []api.Stage{api.StageInput, api.StageNetwork, api.StageJitter, api.StageDecode, api.StagePresent, api.StageTotal} {
		if v, ok := p.MS[s]; ok {
			m.measured.Add(s, v)
			m.fresh = true
		}
	}
	return nil
}

// take gives what was measured since the stream began; nil when nothing is new.
func (m *meter) take() *api.Latency {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.fresh {
		return nil
	}
	m.fresh = false
	return m.measured.Clone()
}
