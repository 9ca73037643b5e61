package geo

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/maxmind/mmdbwriter/mmdbtype"

	"github.com/perigee-cloud/perigee/api"
)

func asn(n uint32) mmdbtype.Map {
	return mmdbtype.Map{"autonomous_system_number": mmdbtype.Uint32(n), "autonomous_system_organization": mmdbtype.String("Example")}
}

func TestAutonomousSystems(t *testing.T) {
	dir := t.TempDir()
	db := write(t, filepath.Join(dir, "asn.mmdb"), mmdb(t, "GeoLite2-ASN", map[string]mmdbtype.Map{"203.0.113.0/24": asn(64500), "2001:db8::/32": asn(64501)}))
	table := write(t, filepath.Join(dir, "ours.csv"), []byte("network,latitude,longitude,radius_km,region,asn\n203.0.113.128/25,48,11,,,AS64999\n10.0.0.0/8,48,11,,eu,64998\n"))
	l := locator(t, Config{ASN: db, Table: table})
	for address, want := range map[string]uint32{
		"203.0.113.9": 64500, "203.0.113.9:4000": 64500, "2001:db8::1": 64501, "203.0.113.200": 64999, "10.1.2.3": 64998, "192.0.2.1": 0, "nowhere": 0,
	} {
		if got := l.ASN(address); got != want {
			t.Errorf("%s is of %d, want %d", address, got, want)
		}
	}
	if l := locator(t, Config{}); l.ASN("203.0.113.9") != 0 {
		t.Error("without a database something is known")
	}
}

func TestBadAutonomousSystems(t *testing.T) {
	dir := t.TempDir()
	cities := write(t, filepath.Join(dir, "city.mmdb"), mmdb(t, "GeoLite2-City", map[string]mmdbtype.Map{"203.0.113.0/24": city("Munich", 48, 11, 10)}))
	if _, err := New(Config{ASN: cities}, nil); err == nil || !strings.Contains(err.Error(), "ASN one is needed") {
		t.Errorf("a database of cities: %v", err)
	}
	if _, err := parseTable("t.csv", []byte("10.0.0.0/8,48,11,,,many\n")); err == nil || !strings.Contains(err.Error(), "asn") {
		t.Errorf("a number that is none: %v", err)
	}
}

func TestSharedNetworks(t *testing.T) {
	munich := api.Location{Known: true, Latitude: 48.14, Longitude: 11.58}
	near := api.Location{Known: true, Latitude: 48.37, Longitude: 11.2}
	far := api.Location{Known: true, Latitude: 53.55, Longitude: 9.99}
	if a, b := SharedNetworkOf(64500, munich), SharedNetworkOf(64500, near); a != b || a != "AS64500@48,12" {
		t.Errorf("two places of one area are %s and %s", a, b)
	}
	if a := SharedNetworkOf(64500, far); a == SharedNetworkOf(64500, munich) {
		t.Errorf("places far apart are both %s", a)
	}
	if a, b := SharedNetworkOf(64500, api.Location{}), SharedNetworkOf(0, munich); a != "AS64500" || b != "" {
		t.Errorf("without a place %s, without a system %s", a, b)
	}
	if a := SharedNetworkOf(1, api.Location{Known: true, Latitude: 0.2, Longitude: -0.2}); a != "AS1@0,0" {
		t.Errorf("around zero it is %s", a)
	}
}
