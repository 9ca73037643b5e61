package node

import (
	"slices"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func TestRelayTLS(t *testing.T) {
	whole := RelayTLS{Listen: ":443", Host: "relay.example", Cert: "c.pem", Key: "k.pem"}
	if err := whole.check(); err != nil {
		t.Error(err)
	}
	if got := whole.urls(); !slices.Equal(got, []string{"turns:relay.example:443?transport=tcp"}) {
		t.Errorf("viewers are told %v", got)
	}
	if got := whole.flags(); !slices.Equal(got, []string{"--tls-listen", ":443", "--cert", "c.pem", "--key", "k.pem", "--host", "relay.example"}) {
		t.Errorf("the relay is told %v", got)
	}
	if none := (RelayTLS{}); none.check() != nil || none.urls() != nil || none.flags() != nil {
		t.Error("none is something")
	}
	for _, half := range []RelayTLS{{Listen: ":443"}, {Host: "relay.example"}, {Listen: ":443", Host: "h", Cert: "c"},
		{Listen: "443", Host: "h", Cert: "c", Key: "k"}, {Listen: ":0", Host: "h", Cert: "c", Key: "k"}} {
		if err := half.check(); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%+v: %v", half, err)
		}
	}
}
