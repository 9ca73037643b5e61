package bus

import (
	"crypto/subtle"
	"encoding/base64"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/perigee-cloud/perigee/api"
)

// replyWithin is how long a node may answer a command after it got it.
const replyWithin = 10 * time.Second

// gate lets schedulers of this process in by the password, nodes by their key.
type gate struct {
	password string
	known    func(public []byte) bool
}

// Check implements nats-server's Authentication.
func (g *gate) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	if o.Nkey == "" {
		return o.Username == schedulerUser && subtle.ConstantTimeCompare([]byte(o.Password), []byte(g.password)) == 1
	}
	public, ok := verifyNonce(o.Nkey, o.Sig, c.GetNonce())
	if !ok || !g.known(public) {
		return false
	}
	c.RegisterUser(&server.User{Username: o.Nkey, Permissions: nodePermissions(api.NodeIDFromKey(public))})
	return true
}

func verifyNonce(nkey, signature string, nonce []byte) (public []byte, ok bool) {
	public, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(nkey))
	if err != nil || len(nonce) == 0 {
		return nil, false
	}
	sig, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil {
		return nil, false
	}
	key, err := nkeys.FromPublicKey(nkey)
	if err != nil || key.Verify(nonce, sig) != nil {
		return nil, false
	}
	return public, true
}

// nodePermissions keeps a node on its own subjects. What it may publish and
// what it may subscribe to are disjoint: could it send itself a request, it
// would choose the subject that its permission to answer then opens.
func nodePermissions(id api.NodeID) *server.Permissions {
	return &server.Permissions{
		Publish: &server.SubjectPermission{Allow: []string{
			subject(id, kindReport), subject(id, kindHeartbeat), subject(id, kindUp) + ".>",
		}},
		Subscribe: &server.SubjectPermission{Allow: []string{
			subject(id, kindCommand), subject(id, kindDown) + ".>", subject(id, kindInbox) + ".>",
		}},
		Response: &server.ResponsePermission{MaxMsgs: 1, Expires: replyWithin},
	}
}
