package gateway

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/perigee-cloud/perigee/api"
)

// encoderDesc describes a figure of a node's encoders. One that was removed has
// none any more.
func encoderDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("perigee_node_"+name, help, append([]string{"node", "region"}, labels...), nil)
}

// collectEncoders tells what each node's encoders were certified for and how
// busy they are.
func collectEncoders(out chan<- prometheus.Metric, nodes []api.NodeView) {
	for _, n := range nodes {
		gauge := func(d *prometheus.Desc, v float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{string(n.Node.ID), n.Node.Region}, labels...)...)
		}
		for _, p := range n.Node.Pools {
			gauge(encoderDesc("encoder_capacity_macroblocks", "What a pool may be reserved for, macroblocks per second.", "pool"), float64(p.Macroblocks), string(p.Pool))
			gauge(encoderDesc("encoder_reserved_macroblocks", "What is reserved of a pool, macroblocks per second.", "pool"), float64(n.Reserved[p.Pool]), string(p.Pool))
		}
		for _, p := range n.Parts {
			labels := []string{string(p.Part), p.Device, p.Part.Unit()}
			gauge(encoderDesc("part_reserved", "What is reserved of a node beside its encoders.", "part", "device", "unit"), float64(p.Reserved), labels...)
			if p.Most > 0 {
				gauge(encoderDesc("part_capacity", "What may be reserved; a part without is not known, and not limited.", "part", "device", "unit"), float64(p.Most), labels...)
			}
		}
		if full := n.Full(); full.Part != "" {
			gauge(encoderDesc("reserved_percent", "Reserved share of the part of the node that binds.", "binding"), float64(full.Percent), full.Part)
		}
		for _, a := range n.Alarms {
			gauge(encoderDesc("alarm", "1 for each thing of a node that an operator has to see to; perigee node show has the reason and the remedy.", "part"), 1, a.Part)
		}
		certified, alarms := 0.0, 0
		if s := n.Node.Certificate; s != nil {
			if c, err := s.Open(n.Node.PublicKey); err == nil {
				certified, alarms = 1, len(c.Alarms)
			}
		}
		gauge(encoderDesc("encoder_certified", "1 when the node's encoders were measured, 0 while they are estimated."), certified)
		gauge(encoderDesc("encoder_certificate_alarms", "What strays from the measurement before, or from published figures."), float64(alarms))
		for stage, d := range n.OwnLatency {
			own := encoderDesc("own_latency_ms", "Median of a stage that is the node's own, of the last minutes and as it is usually.", "stage", "window")
			gauge(own, d.RecentMS, string(stage), "recent")
			gauge(own, d.UsualMS, string(stage), "usual")
			drifts := 0.0
			if d.Drifts {
				drifts = 1
			}
			gauge(encoderDesc("own_latency_drifts", "1 while a stage that is the node's own takes half as long again as usually.", "stage"), drifts, string(stage))
		}
		if !n.Alive || n.Headroom.Binding == "" {
			continue
		}
		h := n.Headroom
		gauge(encoderDesc("saturation_percent", "Used share of the part that binds.", "binding"), float64(h.Saturation), h.Binding)
		gauge(encoderDesc("foreign_cpu_percent", "Share of the processors that other programs take."), float64(h.Foreign))
		gauge(encoderDesc("foreign_memory_percent", "Share of memory that other programs hold."), float64(h.ForeignMemory))
		gauge(encoderDesc("foreign_uplink_percent", "Share of the way out that is not our streams'."), float64(h.ForeignUplink))
		for _, e := range h.Engines {
			ok := 0.0
			if e.State == "ok" {
				ok = 1
			}
			gauge(encoderDesc("engine_ok", "1 while an engine works; its state says why not.", "engine", "state"), ok, e.Engine, e.State)
			if e.Encoder >= 0 {
				gauge(encoderDesc("engine_encoder_percent", "Used share of an engine, by all.", "engine"), float64(e.Encoder), e.Engine)
			}
			if e.Foreign >= 0 {
				gauge(encoderDesc("engine_foreign_percent", "Share of an engine that is not used by our streams.", "engine"), float64(e.Foreign), e.Engine)
			}
		}
	}
}
