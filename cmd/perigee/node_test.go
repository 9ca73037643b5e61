package main

import (
	"bytes"
	"crypto/ed25519"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func TestEnginesAreShown(t *testing.T) {
	got := strings.Join(engineFields(api.Headroom{Foreign: 9, ForeignMemory: 12, Uplink: 35, ForeignUplink: 4, Engines: []api.EngineHeadroom{
		{Engine: "nvenc0", State: "ok", Encoder: 64, Foreign: 12, SM: 22, VRAM: 25, Sessions: 24, LatencyUS: 4100},
		{Engine: "nvenc1", State: "lost", Encoder: api.Unknown, Foreign: api.Unknown, SM: api.Unknown, VRAM: api.Unknown},
	}}), "|")
	want := "foreign cpu|9%|foreign memory|12%|uplink|35% (foreign 4%)|engine nvenc0|ok, encoder 64% (foreign 12%), sm 22%, vram 25%, 24 sessions, 4.1 ms|" +
		"engine nvenc1|lost, encoder unknown (foreign unknown), sm unknown, vram unknown, 0 sessions, 0.0 ms"
	if got != want {
		t.Errorf("shown\n%s\nwant\n%s", got, want)
	}
}

func TestAlarmsAreShown(t *testing.T) {
	v := api.NodeView{Alive: true, Alarms: []api.Alarm{{Part: "relay certificate", Reason: "it expired", Remedy: "renew it"}}}
	if got := nodeState(v); got != "ready, 1 alarm" {
		t.Errorf("the state is %q", got)
	}
	if got := alarmFields(v.Alarms); len(got) != 2 || got[0] != "ALARM relay certificate" || !strings.HasPrefix(got[1], "it expired; renew it (since ") {
		t.Errorf("shown %q", got)
	}
	v.Alarms, v.Node.Drain = append(v.Alarms, api.Alarm{}), true
	if got := nodeState(v); got != "draining, 2 alarms" {
		t.Errorf("the state is %q", got)
	}
}

func TestCertificateIsShownIfItIsTheNodes(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := api.SignCertificate(api.Certificate{Node: api.NodeIDFromKey(public), State: api.CertificateComplete, Alarms: []string{"cpu H264 changed"},
		Engines: []api.EngineCertificate{{Engine: "cpu", Codec: api.H264, Encoder: "libx264", State: api.EngineCertified, Macroblocks: 1_080_000}}}, private)
	if err != nil {
		t.Fatal(err)
	}
	forged := s
	forged.Signature = bytes.Repeat([]byte{1}, ed25519.SignatureSize)
	for name, c := range map[string]struct {
		signed *api.SignedCertificate
		want   []string
	}{
		"none":   {nil, []string{"not certified yet"}},
		"signed": {&s, []string{"libx264", "1080000", "10.0", "ALARM: cpu H264 changed"}},
		"forged": {&forged, []string{"not to be trusted"}},
	} {
		var b bytes.Buffer
		if err := certificate(&b, api.Node{PublicKey: public, Certificate: c.signed}); err != nil {
			t.Fatal(err)
		}
		for _, w := range c.want {
			if !strings.Contains(b.String(), w) {
				t.Errorf("%s: %q is not in\n%s", name, w, b.String())
			}
		}
	}
}

func TestDriftIsShown(t *testing.T) {
	got := strings.Join(ownFields(api.NodeView{OwnLatency: map[api.Stage]api.StageDrift{
		api.StageCapture: {RecentMS: 1, UsualMS: 1.1}, api.StageEncode: {RecentMS: 9.2, UsualMS: 4, Drifts: true}}}), "|")
	if want := "own capture|1.0 ms at the median, usually 1.1|own encode|9.2 ms at the median, usually 4.0; ALARM: it drifts"; got != want {
		t.Errorf("shown\n%s\nwant\n%s", got, want)
	}
}
