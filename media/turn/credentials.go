// Package turn makes and checks the ephemeral credentials of a node's relay:
// nothing is stored, a password is an HMAC of its user name under a secret that
// only the node and the schedulers hold.
package turn

import (
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

// maxUser bounds a user name in bytes: expiry, session (64), generation, side.
const maxUser = 128

// ErrUser says that a user name is malformed or expired.
var ErrUser = errors.New("TURN user is not valid")

// sideStream marks the user name of a session's own stream process.
const sideStream = "stream"

// User is whom a credential belongs to.
type User struct {
	Session    api.SessionID
	Generation api.Generation
	// Stream says that it is the session's stream process, not one of its viewers.
	Stream bool
	Expiry time.Time
}

// Credentials mints the user and the password with which a viewer of one
// placement may use a node's relay until expiry.
func Credentials(secret []byte, session api.SessionID, gen api.Generation, expiry time.Time) (user, password string) {
	return User{Session: session, Generation: gen, Expiry: expiry}.credentials(secret)
}

// StreamCredentials mints those with which the placement's stream process may
// use the relay of another node.
func StreamCredentials(secret []byte, session api.SessionID, gen api.Generation, expiry time.Time) (user, password string) {
	return User{Session: session, Generation: gen, Expiry: expiry, Stream: true}.credentials(secret)
}

func (u User) credentials(secret []byte) (user, password string) {
	b := make([]byte, 0, maxUser)
	b = append(strconv.AppendInt(b, u.Expiry.Unix(), 10), ':')
	b = append(append(b, u.Session...), '.')
	b = strconv.AppendUint(b, uint64(u.Generation), 10)
	if u.Stream {
		b = append(b, "."+sideStream...)
	}
	user = string(b)
	return user, Password(secret, user)
}

// Password gives a user's password: base64(HMAC-SHA1(secret, user)), the form
// that every TURN server with a shared secret knows (TURN REST API).
// The HMAC (RFC 2104) is written out: a scheduler makes five for each session,
// and crypto/hmac allocates two hashes for each.
func Password(secret []byte, user string) string {
	if len(secret) > sha1.BlockSize {
		sum := sha1.Sum(secret)
		secret = sum[:]
	}
	var inner [sha1.BlockSize + maxUser]byte
	var outer [sha1.BlockSize + sha1.Size]byte
	copy(inner[:], secret)
	copy(outer[:], secret)
	for i := range sha1.BlockSize {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	sum := sha1.Sum(append(inner[:sha1.BlockSize], user...))
	copy(outer[sha1.BlockSize:], sum[:])
	sum = sha1.Sum(outer[:])
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Check reads a user name. It refuses an expired one, with api.TicketTolerance
// for two machines' clocks; the zero now refuses none. The password is proven by
// the TURN exchange itself.
func Check(user string, now time.Time) (User, error) {
	fail := func(why string) (User, error) {
		return User{}, fmt.Errorf("check TURN user: %s: %w", why, ErrUser)
	}
	if len(user) > maxUser {
		return fail("too long")
	}
	head, rest, ok := strings.Cut(user, ":")
	unix, err := strconv.ParseInt(head, 10, 64)
	placement, stream := strings.CutSuffix(rest, "."+sideStream)
	dot := strings.LastIndexByte(placement, '.')
	if !ok || err != nil || dot < 0 {
		return fail("want <expiry>:<session>.<generation>")
	}
	gen, err := strconv.ParseUint(placement[dot+1:], 10, 32)
	if err != nil || !api.ValidID(placement[:dot]) {
		return fail("want <expiry>:<session>.<generation>")
	}
	u := User{Session: api.SessionID(placement[:dot]), Generation: api.Generation(gen), Stream: stream, Expiry: time.Unix(unix, 0)}
	if now.After(u.Expiry.Add(api.TicketTolerance)) {
		return fail("expired at " + u.Expiry.UTC().Format(time.RFC3339))
	}
	return u, nil
}
