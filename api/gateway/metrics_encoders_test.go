package gateway

import (
	"crypto/ed25519"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"gopkg.in/yaml.v3"

	"github.com/perigee-cloud/perigee/api"
)

// encodersOf gathers the metrics of nodes by name, with their value.
func encodersOf(t *testing.T, nodes ...api.NodeView) map[string]float64 {
	t.Helper()
	out := make(chan prometheus.Metric, 100)
	collectEncoders(out, nodes)
	close(out)
	r := prometheus.NewRegistry()
	r.MustRegister(fixed(slices.Collect(func(yield func(prometheus.Metric) bool) {
		for m := range out {
			if !yield(m) {
				return
			}
		}
	})))
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		got[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
	}
	return got
}

type fixed []prometheus.Metric

func (fixed) Describe(chan<- *prometheus.Desc) {}
func (f fixed) Collect(out chan<- prometheus.Metric) {
	for _, m := range f {
		out <- m
	}
}

func sampleNode(t *testing.T) api.NodeView {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := api.SignCertificate(api.Certificate{Node: api.NodeIDFromKey(public), Alarms: []string{"a", "b"}}, private)
	if err != nil {
		t.Fatal(err)
	}
	return api.NodeView{Alive: true, Alarms: []api.Alarm{{Part: "relay certificate", Reason: "expired"}},
		Node:     api.Node{ID: "n", Region: "eu", PublicKey: public, Certificate: &s, Pools: []api.Capacity{{Pool: api.PoolCPU, Macroblocks: 1000}}},
		Reserved: map[api.Pool]uint64{api.PoolCPU: 250}, OwnLatency: map[api.Stage]api.StageDrift{api.StageEncode: {RecentMS: 9, UsualMS: 4, Drifts: true}},
		Headroom: api.Headroom{Saturation: 64, Binding: "nvenc0", Foreign: 7, Engines: []api.EngineHeadroom{{Engine: "nvenc0", State: "lost", Encoder: 64, Foreign: 12}}},
	}
}

func TestEncoderMetrics(t *testing.T) {
	got := encodersOf(t, sampleNode(t))
	for name, want := range map[string]float64{
		"encoder_capacity_macroblocks": 1000, "encoder_reserved_macroblocks": 250, "encoder_certified": 1, "encoder_certificate_alarms": 2, "alarm": 1,
		"saturation_percent": 64, "foreign_cpu_percent": 7, "engine_ok": 0, "engine_encoder_percent": 64, "engine_foreign_percent": 12,
		"own_latency_drifts": 1,
	} {
		if v, ok := got["perigee_node_"+name]; !ok || v != want {
			t.Errorf("%s is %v, %v; want %v", name, v, ok, want)
		}
	}
	n := sampleNode(t)
	n.Node.Certificate.Signature[0]++
	n.Alive = false
	got = encodersOf(t, n)
	if got["perigee_node_encoder_certified"] != 0 || got["perigee_node_encoder_certificate_alarms"] != 0 {
		t.Errorf("a forged certificate counts: %v", got)
	}
	if _, ok := got["perigee_node_saturation_percent"]; ok {
		t.Error("a silent node is said to be busy")
	}
}

// Every metric that the sample rules and the dashboard name is told.
func TestEncoderRulesNameWhatIsTold(t *testing.T) {
	told := encodersOf(t, sampleNode(t))
	names := regexp.MustCompile(`perigee_\w+`)
	rules, err := os.ReadFile("../../deploy/alerts/encoders.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var groups struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(rules, &groups); err != nil {
		t.Fatal(err)
	}
	var text string
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || !names.MatchString(r.Expr) {
				t.Errorf("rule %+v", r)
			}
			text += r.Expr + "\n"
		}
	}
	board, err := os.ReadFile("../../deploy/dashboards/encoders.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(board, &dashboard); err != nil || len(dashboard.Panels) == 0 {
		t.Fatalf("dashboard: %v", err)
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			text += target.Expr + "\n"
		}
	}
	found := names.FindAllString(text, -1)
	for _, n := range found {
		if _, ok := told[n]; !ok {
			t.Errorf("%s is told by nobody", n)
		}
	}
	if len(found) < 8 {
		t.Errorf("found only %v", found)
	}
}
