package web

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, method, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestEveryFileHasItsType(t *testing.T) {
	for path, want := range map[string]string{
		"/":                           "text/html; charset=utf-8",
		"/?app=demo&token=x":          "text/html; charset=utf-8",
		"/static/player.js":           "text/javascript; charset=utf-8",
		"/static/player.css":          "text/css; charset=utf-8",
		"/static/icon.svg":            "image/svg+xml",
		"/static/perigee-sdk.js":      "text/javascript; charset=utf-8",
		"/static/perigee-sdk.iife.js": "text/javascript; charset=utf-8",
	} {
		r := get(t, http.MethodGet, path)
		if got := r.Header.Get("Content-Type"); r.StatusCode != http.StatusOK || got != want {
			t.Errorf("%s: %d, %q, want %q", path, r.StatusCode, got, want)
		}
		if len(body(t, r)) < 100 {
			t.Errorf("%s is nearly empty", path)
		}
		if r.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s may be sniffed", path)
		}
	}
	for name, f := range load() {
		if f.kind == "" {
			t.Errorf("%s has no content type", name)
		}
	}
}

func TestWhatIsNotThere(t *testing.T) {
	for _, path := range []string{"/x", "/static/", "/static", "/static/index.html", "/static/../web.go", "/index.html", "/static/no.js", "/dist/player.js"} {
		if r := get(t, http.MethodGet, path); r.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d, want 404", path, r.StatusCode)
		}
	}
	r := get(t, http.MethodPost, "/")
	if r.StatusCode != http.StatusMethodNotAllowed || r.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST /: %d, Allow %q", r.StatusCode, r.Header.Get("Allow"))
	}
	if r := get(t, http.MethodHead, "/"); r.StatusCode != http.StatusOK || body(t, r) != "" {
		t.Errorf("HEAD /: %d with a body", r.StatusCode)
	}
}

func TestThePolicyIsStrict(t *testing.T) {
	csp := get(t, http.MethodGet, "/").Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self';", "style-src 'self';", "base-uri 'none'", "frame-ancestors 'self'", "ws:", "wss:"} {
		if !strings.Contains(csp, want) {
			t.Errorf("the policy lacks %q: %s", want, csp)
		}
	}
	if strings.Contains(csp, "unsafe") {
		t.Errorf("the policy is unsafe: %s", csp)
	}
	page := body(t, get(t, http.MethodGet, "/"))
	for what, re := range map[string]string{
		"an inline script": `<script[^>]*>[^<]`, "an inline style": `style=|<style`, "an inline handler": `\son[a-z]+=`,
		"a request to elsewhere": `(src|href)="(https?:)?//`,
	} {
		if m := regexp.MustCompile(re).FindString(page); m != "" {
			t.Errorf("the page has %s: %s", what, m)
		}
	}
}

func TestCaching(t *testing.T) {
	page := get(t, http.MethodGet, "/")
	if got := page.Header.Get("Cache-Control"); got != "no-cache" {
		t.Errorf("the page: %q", got)
	}
	links := regexp.MustCompile(`"(/static/[^"]+)"`).FindAllStringSubmatch(body(t, page), -1)
	if len(links) < 3 {
		t.Fatalf("the page has the links %v", links)
	}
	for _, l := range links {
		r := get(t, http.MethodGet, l[1])
		if got := r.Header.Get("Cache-Control"); r.StatusCode != http.StatusOK || !strings.Contains(got, "immutable") {
			t.Errorf("%s: %d, %q: its name does not fit its content", l[1], r.StatusCode, got)
		}
		if got := get(t, http.MethodGet, l[1]+"old").Header.Get("Cache-Control"); got != "no-cache" {
			t.Errorf("%sold: %q", l[1], got)
		}
	}
	tag := get(t, http.MethodGet, "/static/perigee-sdk.js").Header.Get("ETag")
	again := get(t, http.MethodGet, "/static/perigee-sdk.js", "If-None-Match", tag)
	if again.StatusCode != http.StatusNotModified || body(t, again) != "" {
		t.Errorf("a known file: %d", again.StatusCode)
	}
	if cors := again.Header.Get("Access-Control-Allow-Origin"); cors != "*" {
		t.Errorf("the SDK may not be loaded from elsewhere: %q", cors)
	}
	if cors := page.Header.Get("Access-Control-Allow-Origin"); cors != "" {
		t.Errorf("the page may be read from elsewhere: %q", cors)
	}
}
