package scheduler

import (
	"testing"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/certify"
	"github.com/perigee-cloud/perigee/edge/gpu"
)

// measuredCPU is a certificate of processors whose VP9 takes four times what
// H.264 does, half of that by the faster preset.
func measuredCPU(streams uint64) api.Certificate {
	rate := streams * api.Macroblocks(1280, 720, 60)
	of := func(codec api.Codec, mbs uint64) api.EngineCertificate {
		return api.EngineCertificate{Engine: "cpu", Pool: api.PoolCPU, Codec: codec, State: api.EngineCertified, Macroblocks: mbs}
	}
	c := api.Certificate{Version: api.CertificateVersion, State: api.CertificateComplete,
		Engines: []api.EngineCertificate{of(api.H264, rate), of(api.VP8, rate/2), of(api.VP9, rate/4)}}
	c.Engines[2].Fast = rate / 2
	return c
}

// certified has a node offer what its certificate says, as an edge does.
func (w *world) certified(streams uint64) *fakeEdge {
	e := w.edge("certified", streams)
	c := measuredCPU(streams)
	c.Node = e.node.ID
	signed, err := api.SignCertificate(c, e.key)
	if err != nil {
		w.t.Fatal(err)
	}
	e.node.Certificate, e.node.Pools = &signed, certify.Pools(&c, gpu.Inventory{}, 0)
	if _, err := w.join(e, ""); err != nil {
		w.t.Fatal(err)
	}
	return e
}

func wanting(codec api.Codec) func(*api.CreateRequest) {
	return func(r *api.CreateRequest) {
		r.Codecs, r.Screen = []api.Codec{codec}, api.Screen{Width: 1280, Height: 720, FPS: 60}
	}
}

// From the certificate through the offer to the ledger: each codec is charged
// what it was measured to cost, and H.264 gets all of the processors.
func TestSessionsAreChargedWhatWasCertified(t *testing.T) {
	one := api.Macroblocks(1280, 720, 60)
	for _, c := range []struct {
		codec api.Codec
		fit   int
		cost  uint64
	}{{api.H264, 8, one}, {api.VP8, 4, 2 * one}, {api.VP9, 2, 4 * one}} {
		t.Run(string(c.codec), func(t *testing.T) {
			w := newWorld(t)
			w.app()
			e := w.certified(8)
			for range c.fit {
				w.mustCreate(wanting(c.codec))
			}
			if _, err := w.create(wanting(c.codec)); api.CodeOf(err) != api.CodeNoCapacity {
				t.Errorf("one more than %d: %v", c.fit, err)
			}
			n, _ := w.s.root().Node(e.node.ID)
			if used, running := n.Reserved(api.PoolCPU); used != uint64(c.fit)*c.cost || running != c.fit {
				t.Errorf("%d sessions take %d, want %d each", running, used, c.cost)
			}
		})
	}
}

func TestOfferAboveTheCertificateIsRefused(t *testing.T) {
	w := newWorld(t)
	e := w.certified(8)
	honest := e.node.Pools[0]
	for name, c := range map[string]struct {
		change func(*api.Capacity)
		ok     bool
	}{
		"as measured":          {func(*api.Capacity) {}, true},
		"less":                 {func(p *api.Capacity) { p.Macroblocks /= 2 }, true},
		"more":                 {func(p *api.Capacity) { p.Macroblocks++ }, false},
		"a codec made cheap":   {func(p *api.Capacity) { p.Factors[2].Thousandths-- }, false},
		"a preset made cheap":  {func(p *api.Capacity) { p.Factors[3].Thousandths-- }, false},
		"a preset of no codec": {func(p *api.Capacity) { p.Factors[3].Codec = api.VP8 }, true},
		"no factors":           {func(p *api.Capacity) { p.Factors = nil }, false},
		"as before factors":    {func(p *api.Capacity) { p.Factors, p.Macroblocks = nil, p.Macroblocks/4*2090/1000 }, true},
	} {
		p := honest
		p.Factors = append([]api.CostFactor(nil), honest.Factors...)
		c.change(&p)
		e.node.Pools = []api.Capacity{p}
		_, err := w.join(e, "")
		if c.ok && err != nil || !c.ok && api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
