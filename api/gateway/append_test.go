package gateway

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// sample sets every field that can be reached to something of its own: a field
// that the answer forgets is missed.
func sample(v reflect.Value, next *int) {
	*next++
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("text", *next))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(float64(*next) + 1.0/3)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		sample(v.Elem(), next)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			sample(v.Index(i), next)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		sample(k, next)
		sample(e, next)
		v.SetMapIndex(k, e)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1_800_000_000, int64(*next)*1000).UTC()))
			return
		}
		for i := range v.NumField() {
			sample(v.Field(i), next)
		}
	default:
		if v.CanInt() {
			v.SetInt(int64(*next))
		} else {
			v.SetUint(uint64(*next))
		}
	}
}

// The answer to a create is what encoding/json would write.
func TestCreateAnswerIsWrittenAsJSON(t *testing.T) {
	full := api.CreateAnswer{}
	n := 0
	sample(reflect.ValueOf(&full).Elem(), &n)
	usual := full
	usual.Perigee.Queue, usual.Perigee.Latency, usual.Perigee.Account, usual.Perigee.EndedAt = nil, nil, "", time.Time{}
	odd := full
	odd.URL, odd.Region, odd.Perigee.Node = "ws://a/?token=<&>'", "qu\"ote\\ \n\x01\x7f", "umlaut ü \u2028 "
	big, small := 1e21, -1e-7
	odd.Perigee.DistanceKM, odd.Perigee.EstimateMS = &big, &small
	odd.STUNServers = []api.ICEServer{{URLs: []string{}}}
	odd.Perigee.CreatedAt = time.Date(2026, 1, 2, 3, 4, 5, 600_000_000, time.FixedZone("", 3600))
	empty := api.CreateAnswer{STUNServers: []api.ICEServer{}}
	for name, a := range map[string]api.CreateAnswer{"full": full, "usual": usual, "odd": odd, "empty": empty} {
		var want strings.Builder
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(api.Envelope{Type: api.EnvelopeSync, Status: api.EnvelopeSuccess, StatusCode: 201, Metadata: a}); err != nil {
			t.Fatal(err)
		}
		c := created(a)
		if got := string(appendAnswer(nil, 201, &c)); got != want.String() {
			t.Errorf("%s:\n%s\nis not\n%s", name, got, want.String())
		}
	}
	for _, v := range []float64{0, math.Copysign(0, -1), 1, -1.5, 1e-6, 123456789.25, 1e20, 1e300, 5e-324, math.MaxFloat64} {
		want, _ := json.Marshal(v)
		if got := appendNumber(nil, v); string(got) != string(want) {
			t.Errorf("%v is written as %s, want %s", v, got, want)
		}
	}
	if got := string(appendNumber(nil, math.NaN())); got != "null" {
		t.Errorf("what is no number is written as %s", got)
	}
}
