package turn

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestCredentialsComeBack(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	user, password := Credentials([]byte("secret"), "c25k8fh3pn6a8q46taug", 7, now.Add(time.Hour))
	if user != "1800003600:c25k8fh3pn6a8q46taug.7" {
		t.Errorf("user %q", user)
	}
	// printf '1800003600:c25k8fh3pn6a8q46taug.7' | openssl dgst -sha1 -hmac secret -binary | base64
	if password != "RiGtpUQFClVMDOMqsJsssCAiCY0=" {
		t.Errorf("password %q", password)
	}
	u, err := Check(user, now)
	if err != nil || u.Session != "c25k8fh3pn6a8q46taug" || u.Generation != 7 || u.Stream || !u.Expiry.Equal(now.Add(time.Hour)) {
		t.Errorf("checked as %+v, %v", u, err)
	}
	stream, other := StreamCredentials([]byte("secret"), "c25k8fh3pn6a8q46taug", 7, now.Add(time.Hour))
	if stream != user+".stream" || other == password {
		t.Errorf("the stream's user is %q, its password that of a viewer: %v", stream, other == password)
	}
	if u, err := Check(stream, now); err != nil || u.Session != "c25k8fh3pn6a8q46taug" || u.Generation != 7 || !u.Stream {
		t.Errorf("the stream's checked as %+v, %v", u, err)
	}
	if Password([]byte("another"), user) == password {
		t.Error("another secret makes the same password")
	}
}

func TestPasswordIsAnHMAC(t *testing.T) {
	for _, secret := range []int{0, 1, 32, sha1.BlockSize, sha1.BlockSize + 1, 128} {
		for _, user := range []int{0, 31, maxUser, maxUser + 1, 1000} {
			key, name := bytes.Repeat([]byte{7}, secret), strings.Repeat("u", user)
			mac := hmac.New(sha1.New, key)
			mac.Write([]byte(name))
			if got, want := Password(key, name), base64.StdEncoding.EncodeToString(mac.Sum(nil)); got != want {
				t.Errorf("a secret of %d bytes and a name of %d make %q, want %q", secret, user, got, want)
			}
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for name, user := range map[string]string{
		"empty":            "",
		"no expiry":        "abc.1",
		"words for expiry": "soon:abc.1",
		"no generation":    "1800003600:abc",
		"bad generation":   "1800003600:abc.-1",
		"huge generation":  "1800003600:abc.4294967296",
		"no session":       "1800003600:.1",
		"path for session": "1800003600:../../etc.1",
		"expired":          "1799999939:abc.1",
		"another side":     "1800003600:abc.1.viewer",
		"side only":        "1800003600:abc.stream",
		"two sides":        "1800003600:abc.1.stream.stream",
		"too long":         "1800003600:" + strings.Repeat("a", 200) + ".1",
	} {
		if _, err := Check(user, now); !errors.Is(err, ErrUser) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Check("1799999941:abc.1", now); err != nil {
		t.Errorf("within the tolerance: %v", err)
	}
	if u, err := Check("1800003600:a:b.1", now); err != nil || u.Session != "a:b" {
		t.Errorf("a colon in the session: %+v, %v", u, err)
	}
}
