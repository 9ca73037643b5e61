// Package turn makes and checks the ephemeral credentials of a node's relay:
// nothing is stored, a password is an HMAC of its user name under a secret that
// only the node and the schedulers hold.
package turn

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// Realm of every Perigee relay.
const Realm = "perigee"

// SecretSize of a relay's secret, in bytes.
const SecretSize = 32

// maxUser bounds a user name in bytes: expiry, session (64), generation.
const maxUser = 128

// ErrUser says that a user name is malformed or expired.
var ErrUser = errors.New("TURN user is not valid")

// Credentials mints the user and the password with which a viewer of one
// placement may use the node's relay until expiry.
func Credentials(secret []byte, session api.SessionID, gen api.Generation, expiry time.Time) (user, password string) {
	user = fmt.Sprintf("%d:%s.%d", expiry.Unix(), session, gen)
	return user, Password(secret, user)
}

// Password gives a user's password: base64(HMAC-SHA1(secret, user)), the form
// that every TURN server with a shared secret knows (TURN REST API).
func Password(secret []byte, user string) string {
	mac := hmac.New(sha1.New, secret)
	mac.Write([]byte(user)) // a hash never fails
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// Check reads a user name: whose session it is and until when. It refuses an
// expired one, with api.TicketTolerance for two machines' clocks. The password
// is proven by the TURN exchange itself.
func Check(user string, now time.Time) (api.SessionID, api.Generation, time.Time, error) {
	fail := func(why string) (api.SessionID, api.Generation, time.Time, error) {
		return "", 0, time.Time{}, fmt.Errorf("check TURN user: %s: %w", why, ErrUser)
	}
	if len(user) > maxUser {
		return fail("too long")
	}
	head, rest, ok := strings.Cut(user, ":")
	unix, err := strconv.ParseInt(head, 10, 64)
	dot := strings.LastIndexByte(rest, '.')
	if !ok || err != nil || dot < 0 {
		return fail("want <expiry>:<session>.<generation>")
	}
	gen, err := strconv.ParseUint(rest[dot+1:], 10, 32)
	if err != nil || !api.ValidID(rest[:dot]) {
		return fail("want <expiry>:<session>.<generation>")
	}
	expiry := time.Unix(unix, 0)
	if now.After(expiry.Add(api.TicketTolerance)) {
		return fail("expired at " + expiry.UTC().Format(time.RFC3339))
	}
	return api.SessionID(rest[:dot]), api.Generation(gen), expiry, nil
}
