// Package web holds the player page and the browser SDK: TypeScript in src/,
// bundled into dist/, embedded and served. dist/ is committed so that a clean
// clone builds with Go alone; a test holds it equal to a fresh bundle.
package web

//go:generate go run ./build

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed dist
var dist embed.FS

// policy lets the page load nothing from elsewhere; it may talk to any gateway
// because an SDK's user may name one.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
	"media-src 'self' blob: mediastream:; connect-src 'self' http: https: ws: wss:; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'self'"

// types are fixed here because the system's table may lack or bend them.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
}

type file struct {
	content []byte
	hash    string
	kind    string
}

// hash gives the short name of a file's content; the page carries it in ?v=,
// written by the generator, so both must name alike (a test holds it).
func hash(content []byte) string {
	sum := sha256.Sum256(content)
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// Handler serves the player at "/" and the files of dist, the SDK
// (perigee-sdk.js, perigee-sdk.iife.js) among them, below "/static/". Every
// other path is 404, every method but GET and HEAD 405.
func Handler() http.Handler {
	files := load()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, static := strings.CutPrefix(r.URL.Path, "/static/")
		if r.URL.Path == "/" {
			name = "index.html"
		} else if !static || name == "index.html" {
			name = ""
		}
		f, ok := files[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD are allowed here", http.StatusMethodNotAllowed)
			return
		}
		serve(w, r, name, f)
	})
}

func serve(w http.ResponseWriter, r *http.Request, name string, f file) {
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("ETag", `"`+f.hash+`"`)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
	if r.URL.Query().Get("v") == f.hash {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	if name != "index.html" {
		// Other people's pages may load the SDK.
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	}
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(f.content))
}

// load reads the embedded files; it cannot fail for a build that compiled.
func load() map[string]file {
	files := map[string]file{}
	_ = fs.WalkDir(dist, "dist", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := dist.ReadFile(p)
		if err != nil {
			return err
		}
		files[path.Base(p)] = file{content: content, hash: hash(content), kind: types[path.Ext(p)]}
		return nil
	})
	return files
}
