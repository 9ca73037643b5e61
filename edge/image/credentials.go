package image

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/perigee-cloud/perigee/api"
)

// credentials reads the users of registries, by host. It is read anew for each
// image, so that a changed password needs no restart.
func credentials(path string) (func(host string) (user, secret string, err error), error) {
	none := func(string) (string, string, error) { return "", "", nil }
	if path == "" {
		return none, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read registries' credentials: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, api.Invalidf("--registry-credentials", "%s can be read by others: chmod 600 it", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read registries' credentials: %w", err)
	}
	var file struct {
		Auths map[string]struct {
			Auth          string `json:"auth"`
			Username      string `json:"username"`
			Password      string `json:"password"`
			IdentityToken string `json:"identitytoken"`
		} `json:"auths"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		return nil, api.Invalidf("--registry-credentials", "%s is no docker config.json: %v", path, err)
	}
	type login struct{ user, secret string }
	byHost := map[string]login{}
	for key, a := range file.Auths {
		l := login{a.Username, a.Password}
		if a.Auth != "" {
			raw, err := base64.StdEncoding.DecodeString(a.Auth)
			user, secret, ok := strings.Cut(string(raw), ":")
			if err != nil || !ok {
				return nil, api.Invalidf("--registry-credentials", "%s: auths[%q].auth is not base64 of user:password", path, key)
			}
			l = login{user, secret}
		}
		if a.IdentityToken != "" { // a user of "" makes the secret a refresh token
			l = login{"", a.IdentityToken}
		}
		host := strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
		host, _, _ = strings.Cut(host, "/")
		if host == "index.docker.io" || host == "docker.io" {
			host = "registry-1.docker.io"
		}
		byHost[host] = l
	}
	return func(host string) (string, string, error) {
		l := byHost[host]
		return l.user, l.secret, nil
	}, nil
}
