package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// filled sets every field that can be reached to something of its own, so that a
// field which the coding forgets is missed.
func filled(v reflect.Value, next *int) {
	*next++
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("text", *next))
	case reflect.Int, reflect.Int64, reflect.Int32:
		v.SetInt(int64(*next))
	case reflect.Uint, reflect.Uint64, reflect.Uint32, reflect.Uint8:
		v.SetUint(uint64(*next % 200))
	case reflect.Float64:
		v.SetFloat(float64(*next) + 0.25)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		filled(v.Elem(), next)
	case reflect.Slice:
		if v.Type() == reflect.TypeFor[json.RawMessage]() {
			v.SetBytes(fmt.Appendf(nil, "%d", *next))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			filled(v.Index(i), next)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1_800_000_000, int64(*next)).UTC()))
			return
		}
		for i := range v.NumField() {
			filled(v.Field(i), next)
		}
	case reflect.Map:
	default:
		panic("a field of kind " + v.Kind().String())
	}
}

func TestHandoversComeBack(t *testing.T) {
	n := 0
	want := make([]Handover, 3)
	filled(reflect.ValueOf(&want[0]).Elem(), &n)
	filled(reflect.ValueOf(&want[1]).Elem(), &n)
	got, err := DecodeHandovers(EncodeHandovers(want))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v came back as\n%+v", err, want, got)
	}
}

func TestMadeComesBack(t *testing.T) {
	n := 0
	var v api.Session
	filled(reflect.ValueOf(&v).Elem(), &n)
	if CanMake(&v) {
		t.Error("a session that has ended can stand in an answer")
	}
	v.EndedAt, v.Queue, v.Latency = time.Time{}, nil, nil
	want := []Made{{Session: &v, Viewer: 7}, {Other: []byte("other")}, {Session: &api.Session{ID: "b"}}}
	if !CanMake(&v) {
		t.Error("a session cannot stand in an answer")
	}
	got, err := DecodeMade(EncodeMade(EntryVersion, want))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v came back as\n%+v", err, want[0].Session, got)
	}
	if got, err := DecodeMade(EncodeMade(1, want)); err != nil || got[0].Session.Node != v.Node || got[0].Session.Preset != "" {
		t.Errorf("of version 1: %+v, %v", got, err)
	}
}

func FuzzHandovers(f *testing.F) {
	n := 0
	var h Handover
	filled(reflect.ValueOf(&h).Elem(), &n)
	f.Add(EncodeHandovers([]Handover{h, {}}))
	f.Add(EncodeMade(EntryVersion, []Made{{Session: &api.Session{ID: "a"}, Viewer: 1}, {Other: []byte("b")}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := DecodeHandovers(b); err != nil && !errors.Is(err, ErrEntry) {
			t.Error(err)
		}
		if _, err := DecodeMade(b); err != nil && !errors.Is(err, ErrEntry) {
			t.Error(err)
		}
	})
}
