package gateway

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func TestPlainCreateBodies(t *testing.T) {
	plainOnes := []string{
		`{"app":"game","joinable":false,"screen":{"width":1280,"height":720,"fps":60,"density":240},"extra_data":null,"perigee":{"location":{"latitude":-12.5,"longitude":7},"idempotency_key":"a-1"}}`,
		" {\n\t\"app\" : \"a\" , \"joinable\" : true , \"ephemeral\": false, \"app_version\": -1, \"idle_time_min\": 0, \"region\": \"\" }\r\n",
		`{}`, `{"screen":{},"perigee":{}}`, `{"perigee":{"codecs":[],"wait_s":3,"client_address":"192.0.2.1"}}`, `{"perigee":{"codecs":["H264" , "VP8"],"location":{"radius_km":0.25}}}`,
	}
	for _, text := range plainOnes {
		if !samePlain(t, text) {
			t.Errorf("%s is not read as plain", text)
		}
	}
	others := []string{
		``, `null`, `[]`, `{`, `{"app"}`, `{"app":}`, `{"app":"a"`, `{"app":"a",}`, `{"app":"a"} x`, `{"app":"a"}{}`, `{"app":"a","app":"b"}`, `{"App":"a"}`, `{"app":"\u0061"}`,
		`{"app":"é"}`, `{"app":null}`, `{"app":1}`, `{"app_version":1.0}`, `{"app_version":01}`, `{"app_version":-}`, `{"app_version":1e2}`, `{"app_version":99999999999999999999}`,
		`{"joinable":"true"}`, `{"joinable":truetrue}`, `{"screen":[]}`, `{"screen":null}`, `{"extra_data":{"a":1}}`, `{"extra_data":nullx}`, `{"perigee":{"probes":[]}}`,
		`{"perigee":{"codecs":["a",]}}`, `{"perigee":{"codecs":["a" "b"]}}`, `{"perigee":{"location":{"latitude":1.}}}`, `{"perigee":{"location":{"latitude":.5}}}`, `{"unknown":1}`,
	}
	for _, text := range others {
		if samePlain(t, text) {
			t.Errorf("%s is read as plain", text)
		}
	}
}

// samePlain says whether a text is plain, and holds what was read of it against
// encoding/json.
func samePlain(t *testing.T, text string) bool {
	t.Helper()
	var got, want api.CreateBody
	p := plain{text: text}
	if !p.create(&got) {
		return false
	}
	if err := json.Unmarshal([]byte(text), &want); err != nil {
		t.Fatalf("%q is read as plain, but is wrong: %v", text, err)
	}
	if !reflect.DeepEqual(got, want) {
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		t.Fatalf("%q is read as\n%s, encoding/json reads\n%s", text, a, b)
	}
	return true
}

func FuzzPlainCreateBodies(f *testing.F) {
	f.Add(`{"app":"game","joinable":false,"screen":{"width":1280,"fps":60},"extra_data":null,"perigee":{"location":{"latitude":-12.5},"codecs":["a"],"wait_s":1}}`)
	f.Add(`{"app_version":-1,"ephemeral":true,"idle_time_min":5,"region":"x"}`)
	f.Fuzz(func(t *testing.T, text string) { samePlain(t, text) })
}

func BenchmarkReadCreate(b *testing.B) {
	text := `{"app":"game","joinable":false,"screen":{"width":1280,"height":720,"fps":60,"density":240},"extra_data":null,"perigee":{"location":{"latitude":-12.5031,"longitude":7.5},"idempotency_key":"abcdefghijklmnopqrstuvwxyz-123"}}`
	b.Run("plain", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var v api.CreateBody
			p := plain{text: text}
			if !p.create(&v) {
				b.Fatal("not plain")
			}
		}
	})
	b.Run("reflection", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var v api.CreateBody
			if err := decode([]byte(text), &v); err != nil {
				b.Fatal(err)
			}
		}
	})
}
