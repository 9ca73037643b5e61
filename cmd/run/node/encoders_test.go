package node

import (
	"crypto/ed25519"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge"
	"github.com/perigee-cloud/perigee/edge/certify"
	"github.com/perigee-cloud/perigee/edge/engines"
	"github.com/perigee-cloud/perigee/edge/gpu"
	"github.com/perigee-cloud/perigee/edge/local"
)

func TestEnginesInQuarantineAreShown(t *testing.T) {
	run := local.Run(t.TempDir())
	book, s := engines.Open(run), run.Session("s", 1)
	if err := os.MkdirAll(string(s), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := book.Write([]engines.Engine{{Name: "nvenc1", Pool: api.PoolNVENC, Macroblocks: 1 << 30, Codecs: api.Codecs()}}); err != nil {
		t.Fatal(err)
	}
	sample := gpu.Sample{Readings: []gpu.Reading{{Index: 0, State: gpu.StateOK}, {Index: 1, State: gpu.StateOK}}}
	if got := quarantined(sample, book); got.Readings[1].State != gpu.StateOK {
		t.Errorf("before: %+v", got)
	}
	want := engines.Want{Pool: api.PoolNVENC, Codec: api.H264, Screen: api.Screen{Width: 640, Height: 360, FPS: 30}}
	if _, err := book.Take(s, want); err != nil {
		t.Fatal(err)
	}
	if _, err := book.Fail(s, want, "hangs"); err == nil {
		t.Error("there is a second engine")
	}
	got := quarantined(sample, book)
	if got.Readings[0].State != gpu.StateOK || got.Readings[1].State != gpu.StateQuarantined || got.Readings[1].Detail != "hangs" || sample.Readings[1].State != gpu.StateOK {
		t.Errorf("after: %+v of %+v", got, sample)
	}
}

// A stored certificate is offered at the next start, whatever the operator asks
// beyond it; one of another machine is not.
func TestStoredCertificateIsOffered(t *testing.T) {
	data := t.TempDir()
	id, err := edge.OpenIdentity(data)
	if err != nil {
		t.Fatal(err)
	}
	defer id.Close()
	cfg := Config{Data: data, Log: slog.New(slog.DiscardHandler)}
	e := takeEncoders(t.Context(), cfg, id)
	pools, signed := e.offer(0)
	if signed != nil || len(pools) != 1 || pools[0].Macroblocks != gpu.CPUPool(e.inventory.Cores).Macroblocks {
		t.Errorf("before: %+v", pools)
	}
	c := api.Certificate{Version: 1, Node: id.ID, Full: true, State: api.CertificateComplete, Machine: e.inventory.Machine, Cores: e.inventory.Cores, Clip: certify.Clip}
	for _, codec := range api.SoftwareCodecs() {
		c.Engines = append(c.Engines, api.EngineCertificate{Engine: "cpu", Pool: api.PoolCPU, Codec: codec, State: api.EngineCertified, Macroblocks: 500_000})
	}
	if _, err := certify.Save(filepath.Join(data, certify.File), c, id.Key); err != nil {
		t.Fatal(err)
	}
	k := e.keeper(cfg, id)
	if e.certificate, e.signed = k.Stored(); e.certificate == nil {
		t.Fatal("a certificate that holds is not used")
	}
	pools, signed = e.offer(1 << 40)
	if signed == nil || pools[0].Macroblocks != 500_000 {
		t.Errorf("after: %+v", pools)
	}
	if _, err := signed.Open(id.Key.Public().(ed25519.PublicKey)); err != nil {
		t.Error(err)
	}
	k.Inventory.Machine = "another"
	if c, _ := k.Stored(); c != nil {
		t.Error("another machine's certificate is used")
	}
}
