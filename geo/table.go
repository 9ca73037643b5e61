package geo

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/perigee-cloud/perigee/api"
)

// halfWay is the greatest distance on Earth, km: no radius is larger.
const halfWay = math.Pi * EarthRadiusKM

// columns of the table, in order; the first three must be given.
func columns() []string {
	return []string{"network", "latitude", "longitude", "radius_km", "region", "asn"}
}

// place is what the table says of a network.
type place struct {
	location api.Location
	region   string
	asn      uint32 // autonomous system; 0 = not given
}

// table finds the smallest of the operator's networks that holds an address.
type table struct {
	places map[netip.Prefix]place
	bits   [2][]int // lengths in use, longest first: IPv4, IPv6
}

func (t *table) find(a netip.Addr) (place, bool) {
	if t == nil {
		return place{}, false
	}
	for _, n := range t.bits[family(a)] {
		network, err := a.Prefix(n)
		if err != nil {
			return place{}, false
		}
		if p, ok := t.places[network]; ok {
			return p, true
		}
	}
	return place{}, false
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// parseTable reads CSV, or YAML when the file's name ends so. Errors name the line.
func parseTable(name string, data []byte) (*table, error) {
	t := &table{places: map[netip.Prefix]place{}}
	read := t.readCSV
	if strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml") {
		read = t.readYAML
	}
	if err := read(data); err != nil {
		return nil, fmt.Errorf("table %s: %w", name, err)
	}
	for network := range t.places {
		f := family(network.Addr())
		if !slices.Contains(t.bits[f], network.Bits()) {
			t.bits[f] = append(t.bits[f], network.Bits())
		}
	}
	for f := range t.bits {
		slices.SortFunc(t.bits[f], func(a, b int) int { return b - a })
	}
	return t, nil
}

func (t *table) readCSV(data []byte) error {
	r := csv.NewReader(bufio.NewReader(bytes.NewReader(data)))
	r.Comment, r.FieldsPerRecord, r.TrimLeadingSpace = '#', -1, true
	for first := true; ; first = false {
		fields, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read CSV: %w", err) // names the line
		}
		line, _ := r.FieldPos(0)
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		if first && fields[0] == columns()[0] {
			if len(fields) > len(columns()) || !slices.Equal(fields, columns()[:len(fields)]) {
				return fmt.Errorf("line %d: the columns are %s, in this order", line, strings.Join(columns(), ","))
			}
			continue
		}
		if len(fields) > len(columns()) {
			return fmt.Errorf("line %d: %d columns; there are %s", line, len(fields), strings.Join(columns(), ","))
		}
		if err := t.add(line, append(fields, make([]string, len(columns())-len(fields))...)); err != nil {
			return err
		}
	}
}

func (t *table) readYAML(data []byte) error {
	var entries []yaml.Node
	if err := yaml.Unmarshal(data, &entries); err != nil {
		return fmt.Errorf("read YAML: a list of networks is expected: %w", err)
	}
	for _, e := range entries {
		if e.Kind != yaml.MappingNode {
			return fmt.Errorf("line %d: a mapping with the keys %s is expected", e.Line, strings.Join(columns(), ", "))
		}
		fields := make([]string, len(columns()))
		for i := 0; i+1 < len(e.Content); i += 2 {
			key, value := e.Content[i], e.Content[i+1]
			at := slices.Index(columns(), key.Value)
			if at < 0 || value.Kind != yaml.ScalarNode {
				return fmt.Errorf("line %d: %q is not one of %s with a plain value", key.Line, key.Value, strings.Join(columns(), ", "))
			}
			fields[at] = value.Value
		}
		if err := t.add(e.Line, fields); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) add(line int, fields []string) error {
	network, err := parseNetwork(fields[0])
	if err != nil {
		return fmt.Errorf("line %d: network: %w", line, err)
	}
	var numbers [3]float64
	for i, bound := range []float64{90, 180, halfWay} {
		text := fields[i+1]
		if text == "" && i == 2 {
			continue
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || !(math.Abs(v) <= bound) || i == 2 && v < 0 {
			return fmt.Errorf("line %d: %s: %q is not a number up to %.0f", line, columns()[i+1], text, bound)
		}
		numbers[i] = v
	}
	if _, twice := t.places[network]; twice {
		return fmt.Errorf("line %d: network %s is there twice", line, network)
	}
	var asn uint64
	if text := strings.TrimPrefix(strings.ToUpper(fields[5]), "AS"); text != "" {
		if asn, err = strconv.ParseUint(text, 10, 32); err != nil || asn == 0 {
			return fmt.Errorf("line %d: asn: %q is not the number of an autonomous system, like 64500 or AS64500", line, fields[5])
		}
	}
	t.places[network] = place{
		asn: uint32(asn),
		location: api.Location{
			Latitude: numbers[0], Longitude: numbers[1], RadiusKM: numbers[2], Known: true, Source: "table",
		},
		region: fields[4],
	}
	return nil
}

// parseNetwork reads a network or one address.
func parseNetwork(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, fmt.Errorf("%q is neither a network such as 10.0.0.0/8 nor an address", text)
	}
	if p.Addr().Is4In6() {
		return p, fmt.Errorf("%q: write the IPv4 network itself", text)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("%q has bits beyond its length; do you mean %s?", text, p.Masked())
	}
	return p, nil
}
