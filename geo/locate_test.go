package geo

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"github.com/perigee-cloud/perigee/api"
)

func city(name string, latitude, longitude float64, radius uint16) mmdbtype.Map {
	at := mmdbtype.Map{"latitude": mmdbtype.Float64(latitude), "longitude": mmdbtype.Float64(longitude)}
	if radius > 0 {
		at["accuracy_radius"] = mmdbtype.Uint16(radius)
	}
	return mmdbtype.Map{"location": at, "city": mmdbtype.Map{"names": mmdbtype.Map{"en": mmdbtype.String(name)}}}
}

func mmdb(t testing.TB, kind string, records map[string]mmdbtype.Map) []byte {
	t.Helper()
	w, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: kind, RecordSize: 24, IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	for network, record := range records {
		_, n, err := net.ParseCIDR(network)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Insert(n, record); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := w.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func write(t testing.TB, path string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func locator(t *testing.T, c Config) *Locator {
	t.Helper()
	l, err := New(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func berlin(t testing.TB) []byte {
	return mmdb(t, "GeoLite2-City", map[string]mmdbtype.Map{
		"81.0.0.0/8":     city("Berlin", 52.52, 13.405, 20),
		"82.0.0.0/8":     city("Vague", 10, 20, 0),
		"83.0.0.0/8":     {"city": mmdbtype.Map{"names": mmdbtype.Map{"en": mmdbtype.String("No place")}}},
		"84.0.0.0/8":     city("Off Earth", 91, 0, 1),
		"10.0.0.0/8":     city("Private", 1, 1, 1),
		"127.0.0.0/8":    city("Loopback", 1, 1, 1),
		"2a00:1450::/32": city("Zürich", 47.37, 8.54, 5),
	})
}

const privateTable = "# ours\nnetwork,latitude,longitude,radius_km,region\n" +
	"10.1.0.0/16, 48.1, 11.6, 3, south\n10.1.2.0/24,53.5,10,,north\n127.0.0.1,1.5,2.5\nfd00::/8,5,6,7,v6\n81.2.0.0/16,0,0\n"

func TestLocate(t *testing.T) {
	dir := t.TempDir()
	l := locator(t, Config{
		MMDB:  write(t, filepath.Join(dir, "city.mmdb"), berlin(t)),
		Table: write(t, filepath.Join(dir, "table.csv"), []byte(privateTable)),
	})
	known := func(latitude, longitude, radius float64, source, city string) api.Location {
		return api.Location{Latitude: latitude, Longitude: longitude, RadiusKM: radius, Known: true, Source: source, City: city}
	}
	for address, want := range map[string]api.Location{
		"81.1.2.3":             known(52.52, 13.405, 20, "mmdb", "Berlin"),
		"81.1.2.3:443":         known(52.52, 13.405, 20, "mmdb", "Berlin"),
		"::ffff:81.1.2.3":      known(52.52, 13.405, 20, "mmdb", "Berlin"),
		"2a00:1450::1":         known(47.37, 8.54, 5, "mmdb", "Zürich"),
		"[2a00:1450::1]:99":    known(47.37, 8.54, 5, "mmdb", "Zürich"),
		"82.1.1.1":             known(10, 20, vagueKM, "mmdb", "Vague"),
		"81.2.9.9":             known(0, 0, 0, "table", ""),
		"10.1.9.9":             known(48.1, 11.6, 3, "table", ""),
		"10.1.2.9":             known(53.5, 10, 0, "table", ""),
		"127.0.0.1":            known(1.5, 2.5, 0, "table", ""),
		"fd12::1":              known(5, 6, 7, "table", ""),
		"fe80::1%eth0":         {},
		"10.2.0.1":             {},
		"127.0.0.2":            {},
		"::1":                  {},
		"83.1.1.1":             {},
		"84.1.1.1":             {},
		"99.1.1.1":             {},
		"0.0.0.0":              {},
		"":                     {},
		"localhost":            {},
		"81.1.2.3.4":           {},
		"2a00:1450::1:99:zz:1": {},
	} {
		if got := l.Locate(address); got != want {
			t.Errorf("%q: got %+v, want %+v", address, got, want)
		}
	}
	for address, want := range map[string]string{"10.1.9.9": "south", "10.1.2.3:80": "north", "fd01::1": "v6", "127.0.0.1": "", "9.9.9.9": "", "x": ""} {
		if got := l.Region(address); got != want {
			t.Errorf("region of %q: %q, want %q", address, got, want)
		}
	}
}

func TestNothingConfigured(t *testing.T) {
	l := locator(t, Config{})
	if got := l.Locate("81.1.2.3"); got != (api.Location{}) {
		t.Errorf("got %+v", got)
	}
}

func TestTableYAML(t *testing.T) {
	l := locator(t, Config{Table: write(t, filepath.Join(t.TempDir(), "t.yaml"), []byte(
		"- network: 10.0.0.0/8\n  latitude: 1.5\n  longitude: -2\n  region: lab\n- {network: '::1', latitude: 3, longitude: 4, radius_km: 9}\n"))})
	if got := l.Locate("10.9.9.9"); got.Latitude != 1.5 || got.Longitude != -2 || l.Region("10.0.0.1") != "lab" {
		t.Errorf("got %+v", got)
	}
	if got := l.Locate("::1"); got.RadiusKM != 9 {
		t.Errorf("got %+v", got)
	}
}

func TestTableErrorsNameTheLine(t *testing.T) {
	for name, c := range map[string]struct{ file, text, want string }{
		"bad network":     {"t.csv", "\n10.0.0.0/8,1,2\nx,1,2\n", "line 3: network"},
		"host bits":       {"t.csv", "10.0.0.1/8,1,2\n", "line 1: network: \"10.0.0.1/8\" has bits beyond its length; do you mean 10.0.0.0/8?"},
		"mapped":          {"t.csv", "::ffff:10.0.0.0/104,1,2\n", "line 1: network"},
		"latitude":        {"t.csv", "10.0.0.0/8,91,2\n", "line 1: latitude"},
		"longitude":       {"t.csv", "10.0.0.0/8,9,NaN\n", "line 1: longitude"},
		"radius":          {"t.csv", "10.0.0.0/8,9,2,-1\n", "line 1: radius_km"},
		"missing":         {"t.csv", "10.0.0.0/8,9\n", "line 1: longitude"},
		"too many":        {"t.csv", "10.0.0.0/8,9,1,1,r,1,x\n", "line 1: 7 columns"},
		"header":          {"t.csv", "network,longitude,latitude\n", "line 1: the columns"},
		"twice":           {"t.csv", "10.0.0.0/8,9,1\n10.0.0.0/8,9,1\n", "line 2: network 10.0.0.0/8 is there twice"},
		"quotes":          {"t.csv", "10.0.0.0/8,9,1\n\"x\n", "line 2"},
		"YAML not a list": {"t.yml", "network: 10.0.0.0/8\n", "a list of networks"},
		"YAML key":        {"t.yml", "- network: 10.0.0.0/8\n  lat: 1\n", "line 2: \"lat\""},
		"YAML entry":      {"t.yml", "- 10.0.0.0/8\n", "line 1: a mapping"},
		"YAML value":      {"t.yml", "- {network: 10.0.0.0/8, latitude: [1], longitude: 2}\n", "line 1: \"latitude\""},
		"YAML range":      {"t.yml", "\n- {network: 10.0.0.0/8, latitude: 1, longitude: 200}\n", "line 2: longitude"},
	} {
		path := write(t, filepath.Join(t.TempDir(), c.file), []byte(c.text))
		if _, err := New(Config{Table: path}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", name, err, c.want)
		}
	}
}

func TestUnusableDatabases(t *testing.T) {
	dir := t.TempDir()
	for name, path := range map[string]string{
		"missing": filepath.Join(dir, "none"),
		"garbage": write(t, filepath.Join(dir, "garbage"), []byte("not a database")),
		"empty":   write(t, filepath.Join(dir, "empty"), nil),
		"country": write(t, filepath.Join(dir, "country"), mmdb(t, "GeoLite2-Country", nil)),
		"asn":     write(t, filepath.Join(dir, "asn"), mmdb(t, "GeoLite2-ASN", nil)),
	} {
		if _, err := New(Config{MMDB: path}, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// lines counts what is logged.
type lines struct {
	slog.Handler
	mu   sync.Mutex
	text []string
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }
func (l *lines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, r.Level.String()+" "+r.Message)
	return nil
}

func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.text
	l.text = nil
	return out
}

func TestFilesAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		city1, table1 := berlin(t), []byte("10.0.0.0/8,1,2\n")
		c := Config{MMDB: write(t, filepath.Join(dir, "m"), city1), Table: write(t, filepath.Join(dir, "t.csv"), table1)}
		log := &lines{}
		l, err := New(c, slog.New(log))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		poll := func() []string { time.Sleep(pollEvery); synctest.Wait(); return log.take() }
		expect := func(step string, logged []string, lines int, mmdbLat, tableLat float64) {
			t.Helper()
			if len(logged) != lines || l.Locate("81.1.1.1").Latitude != mmdbLat || l.Locate("10.1.1.1").Latitude != tableLat {
				t.Errorf("%s: %v and %v, logged %q", step, l.Locate("81.1.1.1"), l.Locate("10.1.1.1"), logged)
			}
		}
		expect("unchanged", poll(), 0, 52.52, 1)
		write(t, c.MMDB, city1[:len(city1)/2])
		write(t, c.Table, []byte("10.0.0.0/8,1\n"))
		expect("both broken", poll(), 2, 52.52, 1)
		expect("still broken", poll(), 0, 52.52, 1)
		if err := os.Remove(c.Table); err != nil {
			t.Fatal(err)
		}
		expect("table removed", poll(), 1, 52.52, 1)
		expect("still removed", poll(), 0, 52.52, 1)
		write(t, c.MMDB, mmdb(t, "DBIP-City-Lite", map[string]mmdbtype.Map{"81.0.0.0/8": city("Hamburg", 53.55, 10, 9)}))
		write(t, c.Table, []byte("10.0.0.0/8,7,2\n"))
		expect("new ones", poll(), 2, 53.55, 7)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func FuzzParseTable(f *testing.F) {
	f.Add("t.csv", []byte(privateTable))
	f.Add("t.yaml", []byte("- {network: 10.0.0.0/8, latitude: 1, longitude: 2}"))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		parsed, err := parseTable(name, data)
		if err != nil {
			return
		}
		for network := range parsed.places {
			p, ok := parsed.find(network.Addr())
			if !ok || !onEarth(p.location.Latitude, p.location.Longitude) {
				t.Errorf("%s: %+v, %v", network, p, ok)
			}
		}
	})
}

func BenchmarkLocate(b *testing.B) {
	l, err := New(Config{MMDB: write(b, filepath.Join(b.TempDir(), "m"), berlin(b))}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.Locate("81.1.2.3")
	}
}
