package geo

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/oschwald/geoip2-golang/v2"

	"github.com/perigee-cloud/perigee/api"
)

const (
	pollEvery = 2 * time.Second
	// vagueKM is taken when a record has no accuracy radius: the median error of
	// mobile prefixes is 179–207 km (arXiv 2605.21937).
	vagueKM = 200
)

// Config names the files that places and networks come from; each may be "".
type Config struct {
	MMDB  string // a City-schema database
	ASN   string // an ASN-schema database
	Table string // the operator's networks, CSV or YAML; wins over both
}

// Locator says where addresses are. It is for many goroutines.
type Locator struct {
	log   *slog.Logger
	files []*file
	mmdb  atomic.Pointer[geoip2.Reader]
	asn   atomic.Pointer[geoip2.Reader]
	table atomic.Pointer[table]
}

// file is a source that is read again when it changes.
type file struct {
	path string
	load func(data []byte) error
	mark mark
}

type mark struct {
	size     int64
	modified time.Time
}

// New reads the files; it fails when one that is named cannot be used.
func New(c Config, log *slog.Logger) (*Locator, error) {
	l := &Locator{log: log}
	if c.MMDB != "" {
		l.files = append(l.files, &file{path: c.MMDB, load: l.loadMMDB})
	}
	if c.ASN != "" {
		l.files = append(l.files, &file{path: c.ASN, load: l.loadASN})
	}
	if c.Table != "" {
		l.files = append(l.files, &file{path: c.Table, load: func(data []byte) error {
			t, err := parseTable(c.Table, data)
			if err == nil {
				l.table.Store(t)
			}
			return err
		}})
	}
	for _, f := range l.files {
		if _, err := f.refresh(); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Run watches the files until ctx ends. A file that cannot be used leaves what
// was read before in place and is logged once.
func (l *Locator) Run(ctx context.Context) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			l.refresh()
		}
	}
}

func (l *Locator) refresh() {
	for _, f := range l.files {
		changed, err := f.refresh()
		switch {
		case !changed:
		case err != nil:
			l.log.Error("location file not usable, the earlier one stays", "path", f.path, "error", err)
		default:
			l.log.Info("location file read again", "path", f.path)
		}
	}
}

// refresh reads the file when its size or time is another than last time,
// usable or not: a broken one is not read over and over.
func (f *file) refresh() (changed bool, err error) {
	info, err := os.Stat(f.path)
	if err != nil {
		changed, f.mark = f.mark != mark{}, mark{}
		return changed, fmt.Errorf("read location file: %w", err)
	}
	now := mark{info.Size(), info.ModTime()}
	if now == f.mark {
		return false, nil
	}
	f.mark = now
	data, err := os.ReadFile(f.path)
	if err != nil {
		return true, fmt.Errorf("read location file: %w", err)
	}
	return true, f.load(data)
}

// loadMMDB takes the database from memory: a mapped file that somebody cuts
// short would kill the process.
func (l *Locator) loadMMDB(data []byte) error {
	r, err := geoip2.OpenBytes(data)
	if err != nil {
		return fmt.Errorf("open location database: %w", err)
	}
	if kind := r.Metadata().DatabaseType; strings.Contains(kind, "Country") { // geoip2 takes it for City
		return fmt.Errorf("open location database: %s has no coordinates, a City one is needed", kind)
	}
	if _, err := r.City(netip.IPv4Unspecified()); err != nil {
		return fmt.Errorf("open location database: a City one is needed: %w", err)
	}
	l.mmdb.Store(r) // readers of the earlier one hold it as long as they need
	return nil
}

func (l *Locator) loadASN(data []byte) error {
	r, err := geoip2.OpenBytes(data)
	if err != nil {
		return fmt.Errorf("open network database: %w", err)
	}
	if _, err := r.ASN(netip.IPv4Unspecified()); err != nil {
		return fmt.Errorf("open network database: %s has no autonomous systems, an ASN one is needed: %w", r.Metadata().DatabaseType, err)
	}
	l.asn.Store(r)
	return nil
}

// ASN gives the number of the autonomous system of an IP address, with or
// without port; 0 when it is unknown.
func (l *Locator) ASN(address string) uint32 {
	a, ok := parseAddress(address)
	if !ok {
		return 0
	}
	if p, ok := l.table.Load().find(a); ok && p.asn > 0 {
		return p.asn
	}
	r := l.asn.Load()
	if r == nil || !a.IsGlobalUnicast() || a.IsPrivate() {
		return 0
	}
	record, err := r.ASN(a)
	if err != nil {
		l.log.Warn("network database record not readable", "error", err)
		return 0
	}
	if record.AutonomousSystemNumber > math.MaxUint32 {
		return 0
	}
	return uint32(record.AutonomousSystemNumber)
}

// Locate gives the place of an IP address, with or without port; the zero
// Location when it is unknown, which private addresses are unless the table
// names them.
func (l *Locator) Locate(address string) api.Location {
	a, ok := parseAddress(address)
	if !ok {
		return api.Location{}
	}
	if p, ok := l.table.Load().find(a); ok {
		return p.location
	}
	r := l.mmdb.Load()
	if r == nil || !a.IsGlobalUnicast() || a.IsPrivate() {
		return api.Location{}
	}
	city, err := r.City(a)
	if err != nil {
		l.log.Warn("location database record not readable", "error", err)
		return api.Location{}
	}
	at := city.Location
	if at.Latitude == nil || at.Longitude == nil || !onEarth(*at.Latitude, *at.Longitude) {
		return api.Location{}
	}
	out := api.Location{
		Latitude: *at.Latitude, Longitude: *at.Longitude, RadiusKM: float64(at.AccuracyRadius),
		Known: true, Source: "mmdb", City: city.City.Names.English,
	}
	if out.RadiusKM == 0 {
		out.RadiusKM = vagueKM
	}
	return out
}

// Region gives the region that the table names for an address, or "".
func (l *Locator) Region(address string) string {
	if a, ok := parseAddress(address); ok {
		p, _ := l.table.Load().find(a)
		return p.region
	}
	return ""
}

func parseAddress(text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		ap, err := netip.ParseAddrPort(text)
		if err != nil {
			return a, false
		}
		a = ap.Addr()
	}
	return a.Unmap().WithZone(""), true
}

func onEarth(latitude, longitude float64) bool {
	return latitude >= -90 && latitude <= 90 && longitude >= -180 && longitude <= 180
}
