package gateway

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/perigee-cloud/perigee/api"
)

const namespace = "anbox_stream_gateway" // so that existing dashboards work

// metricsWait bounds what a scrape may wait for the scheduler.
const metricsWait = 2 * time.Second

// metrics is one server's own registry.
type metrics struct {
	registry *prometheus.Registry
	inFlight prometheus.Gauge
	requests *prometheus.CounterVec
	took     *prometheus.HistogramVec
	received *prometheus.HistogramVec
	sent     *prometheus.HistogramVec
	sockets  prometheus.Gauge
	frames   *prometheus.CounterVec

	mu    sync.RWMutex
	known map[seriesKey]*series
}

// seriesKey is the labels of a request's series, series what they are: finding
// each by its labels is dear. There are a few for each route.
type seriesKey struct {
	handler, method string
	status          int
}

type series struct {
	requests             prometheus.Counter
	took, received, sent prometheus.Observer // nil for websockets: their length says nothing of the server
}

func (m *metrics) series(k seriesKey) *series {
	m.mu.RLock()
	s := m.known[k]
	m.mu.RUnlock()
	if s != nil {
		return s
	}
	l := []string{k.handler, k.method, strconv.Itoa(k.status)}
	s = &series{requests: m.requests.WithLabelValues(l...)}
	if k.status != http.StatusSwitchingProtocols {
		s.took, s.received, s.sent = m.took.WithLabelValues(l...), m.received.WithLabelValues(l...), m.sent.WithLabelValues(l...)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known[k] = s
	return s
}

func newMetrics(s *Server, host string) *metrics {
	constant := prometheus.Labels{"host": host}
	labels := []string{"handler", "method", "code"}
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: name, Help: help, Buckets: buckets, ConstLabels: constant,
		}, labels)
	}
	sizes := prometheus.ExponentialBuckets(128, 4, 8)
	m := &metrics{
		known:    map[seriesKey]*series{},
		registry: prometheus.NewRegistry(),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: "http_in_flight_requests",
			Help: "Requests being served, websockets among them.", ConstLabels: constant}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "http_requests_total",
			Help: "Requests served.", ConstLabels: constant}, labels),
		took: histogram("http_request_duration_seconds", "How long requests took.",
			[]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}),
		received: histogram("http_request_size_bytes", "Size of requests' bodies.", sizes),
		sent:     histogram("http_response_size_bytes", "Size of answers' bodies.", sizes),
		sockets: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "perigee_gateway", Name: "signalling_websockets",
			Help: "Open signalling websockets."}),
		frames: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "perigee_gateway", Name: "signalling_frames_total",
			Help: "Signalling frames forwarded."}, []string{"direction"}),
	}
	m.registry.MustRegister(m.inFlight, m.requests, m.took, m.received, m.sent, m.sockets, m.frames,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), fleet{s})
	if s.cfg.Latencies != nil {
		m.registry.MustRegister(stages{s.cfg.Latencies})
	}
	return m
}

// Registry is where the caller may add metrics of its own to /metrics.
func (s *Server) Registry() *prometheus.Registry { return s.metrics.registry }

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, Timeout: 5 * time.Second,
	})
}

func (m *metrics) observe(handler string, r *http.Request, status int, took time.Duration, size int) {
	s := m.series(seriesKey{handler, method(r.Method), status})
	s.requests.Inc()
	if s.took == nil {
		return
	}
	s.took.Observe(took.Seconds())
	s.received.Observe(float64(max(r.ContentLength, 0)))
	s.sent.Observe(float64(max(size, 0)))
}

// method keeps invented methods from making new series.
func method(m string) string {
	switch m {
	case http.MethodGet, http.MethodPost, http.MethodDelete, http.MethodPatch, http.MethodPut, http.MethodHead, http.MethodOptions:
		return m
	default:
		return "other"
	}
}

// fleet reads the scheduler's figures at each scrape.
type fleet struct{ s *Server }

func fleetDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
}

// Describe says nothing: what cannot be read at a scrape is left out.
func (f fleet) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (f fleet) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), metricsWait)
	defer cancel()
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	sessions := fleetDesc("sessions_total", "Sessions by status.", "status")
	for _, st := range statuses() {
		if _, n, err := f.s.cfg.Sessions.ListSessions(ctx, api.SessionQuery{Status: st, Limit: 1}); err == nil {
			gauge(sessions, n, string(st))
		}
	}
	if list, err := f.s.cfg.Accounts.ListAccounts(ctx); err == nil {
		gauge(fleetDesc("accounts_total", "Service accounts."), len(list))
	}
	if list, err := f.s.cfg.Nodes.ListNodes(ctx); err == nil {
		silent := 0
		for _, n := range list {
			if !n.Alive {
				silent++
			}
		}
		gauge(fleetDesc("agents_total", "Edge nodes that have joined."), len(list))
		gauge(fleetDesc("agents_unresponsive", "Edge nodes that are not heard any more."), silent)
		collectEncoders(out, list)
	}
}
