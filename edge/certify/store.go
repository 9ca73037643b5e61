package certify

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gpu"
)

// File is the certificate's name in a node's data directory.
const File = "certificate.json"

// Load reads a stored certificate. The error wraps os.ErrNotExist when there is
// none, api.ErrCertificate when it is not this key's.
func Load(path string, key ed25519.PublicKey) (api.Certificate, api.SignedCertificate, error) {
	var s api.SignedCertificate
	b, err := os.ReadFile(path)
	if err != nil {
		return api.Certificate{}, s, fmt.Errorf("read certificate: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return api.Certificate{}, s, fmt.Errorf("read certificate: %w", errors.Join(api.ErrCertificate, err))
	}
	c, err := s.Open(key)
	return c, s, err
}

// Save signs a certificate and stores it, whole or not at all.
func Save(path string, c api.Certificate, key ed25519.PrivateKey) (api.SignedCertificate, error) {
	s, err := api.SignCertificate(c, key)
	if err != nil {
		return s, err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return s, fmt.Errorf("encode certificate: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".certificate-*")
	if err != nil {
		return s, fmt.Errorf("write certificate: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return s, fmt.Errorf("write certificate: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return s, nil
}

// Outdated says why a certificate does not hold for a machine any more; "" when
// it does.
func Outdated(c api.Certificate, inv gpu.Inventory) string {
	for _, d := range []struct{ what, was, is string }{
		{"processor", c.Machine, inv.Machine},
		{"number of cores", fmt.Sprint(c.Cores), fmt.Sprint(inv.Cores)},
		{"software", c.Software, inv.Software},
		{"driver", c.Driver, inv.Driver},
		{"reference picture", c.Clip, Clip},
		{"engines", engines(c), jobNames(inv)},
	} {
		if d.was != d.is {
			return fmt.Sprintf("%s was %q and is %q", d.what, d.was, d.is)
		}
	}
	return ""
}

func engines(c api.Certificate) string {
	var out []string
	for _, e := range c.Engines {
		out = append(out, e.Engine+":"+string(e.Codec))
	}
	return strings.Join(out, " ")
}

func jobNames(inv gpu.Inventory) string {
	var out []string
	for _, j := range Jobs(inv) {
		out = append(out, j.Engine+":"+string(j.Codec))
	}
	return strings.Join(out, " ")
}

const (
	alarmPercent = 10 // between two measurements
	publicMost   = 2  // times the published figure, and its inverse
)

// Compare says what strays: from the certificate before by more than 10 %, and
// from the published figures by more than half. What was measured beside other
// load is not compared.
func Compare(before, now api.Certificate) []string {
	type key struct {
		engine string
		codec  api.Codec
	}
	old := map[key]api.EngineCertificate{}
	if before.Clip == now.Clip {
		for _, e := range before.Engines {
			old[key{e.Engine, e.Codec}] = e
		}
	}
	var out []string
	for _, e := range now.Engines {
		name := e.Engine + " " + string(e.Codec)
		was, known := old[key{e.Engine, e.Codec}]
		switch {
		case known && was.State == api.EngineCertified && e.State != api.EngineCertified && e.State != api.EngineInterrupted:
			out = append(out, fmt.Sprintf("%s was certified and is %s: %s", name, e.State, e.Detail))
		case known && was.State == api.EngineCertified && e.State == api.EngineCertified && was.Detail == "" && e.Detail == "":
			change := (float64(e.Macroblocks)/float64(max(was.Macroblocks, 1)) - 1) * 100
			if change > alarmPercent || change < -alarmPercent {
				out = append(out, fmt.Sprintf("%s changed by %+.0f %%, from %d to %d macroblocks/s", name, change, was.Macroblocks, e.Macroblocks))
			}
		}
		if e.State == api.EngineCertified && e.Public > 0 && (e.Macroblocks > e.Public*publicMost || e.Macroblocks < e.Public/publicMost) {
			out = append(out, fmt.Sprintf("%s does %d macroblocks/s, its model is published to do %d", name, e.Macroblocks, e.Public))
		}
	}
	return out
}

// Saturation predicts how busy an engine gets by a load of one codec, in
// percent, from the certificate's curve. ok is false when it has none.
func Saturation(e api.EngineCertificate, macroblocks float64) (percent float64, ok bool) {
	type xy struct{ x, y float64 }
	var points []xy
	last := xy{}
	for _, p := range e.Load {
		if at := (xy{float64(p.Macroblocks), p.Busy}); at.x > last.x {
			points = append(points, at)
			last = at
		}
	}
	if len(points) == 0 || e.State != api.EngineCertified {
		return 0, false
	}
	from := xy{}
	for i, to := range points {
		if macroblocks <= to.x || i == len(points)-1 {
			return from.y + (to.y-from.y)*(macroblocks-from.x)/(to.x-from.x), true
		}
		from = to
	}
	return 0, false
}
