package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/manifest"
)

// readApp reads an application: a manifest of one document where the body says
// that it is YAML, else JSON. Both are read strictly: a misspelt limit would be none.
func readApp(c *gin.Context) (api.App, error) {
	kind, _, _ := mime.ParseMediaType(c.GetHeader("Content-Type")) // none is JSON
	if !strings.HasSuffix(kind, "yaml") {
		var b appBody
		if err := readBody(c, &b, false); err != nil {
			return api.App{}, err
		}
		return b.app.Normalize()
	}
	text, err := io.ReadAll(c.Request.Body)
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) {
		return api.App{}, api.Errorf(api.CodeTooLarge, "the body is over %d bytes", tooBig.Limit)
	}
	if err != nil {
		return api.App{}, api.Invalidf("body", "could not be read: %v", err)
	}
	list, err := manifest.Read(bytes.NewReader(text))
	if err != nil {
		return api.App{}, err
	}
	if len(list) != 1 {
		return api.App{}, api.Invalidf("body", "holds %d applications: send one at a time", len(list))
	}
	return list[0], nil
}

// appBody is an application in JSON.
type appBody struct{ app api.App }

// UnmarshalJSON refuses fields that an application does not have.
func (b *appBody) UnmarshalJSON(text []byte) error {
	if err := json.Unmarshal(text, &b.app); err != nil {
		return err
	}
	var only struct {
		Placement json.RawMessage `json:"placement"`
	}
	if err := json.Unmarshal(text, &only); err != nil {
		return err
	}
	if b.app.Placement != nil {
		if why := strict(only.Placement, &api.PlacementPolicy{}); why != "" {
			return api.Invalidf("placement", "%s: it has max_round_trip_ms, relax_ms_per_s, relax_to_ms, order, min_fps, lower_preset, software, regions, labels and preferred_within_ms", why)
		}
	}
	if why := strict(text, &api.App{}); why != "" {
		return api.Invalidf("body", "%s: GET /1.0/perigee/manifest.schema.json lists the fields of an application", why)
	}
	return nil
}

func strict(text []byte, into any) string {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return strings.TrimPrefix(err.Error(), "json: ")
	}
	return ""
}

// putApplication makes a new version, published unless ?publish=false.
func (s *Server) putApplication(c *gin.Context) (reply, error) {
	a, err := readApp(c)
	if err != nil {
		return reply{}, err
	}
	return s.keepVersion(c, a)
}

func (s *Server) keepVersion(c *gin.Context, a api.App) (reply, error) {
	publish, err := queryFlag(c, "publish", true)
	if err != nil {
		return reply{}, err
	}
	if publish {
		a, err = s.cfg.Catalog.PutApplication(c.Request.Context(), a)
	} else {
		a, err = s.cfg.Catalog.StageApplication(c.Request.Context(), a)
	}
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusCreated, metadata: appView(a, true)}, nil
}

// queryFlag reads a boolean of the query.
func queryFlag(c *gin.Context, name string, otherwise bool) (bool, error) {
	text, given := c.GetQuery(name)
	if !given {
		return otherwise, nil
	}
	if text == "" {
		return true, nil
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		return false, api.Invalidf(name, "must be true or false, got %q", text)
	}
	return v, nil
}

// record finds the application that the path names.
func (s *Server) record(c *gin.Context) (api.AppRecord, error) {
	name := c.Param("name")
	if err := api.ValidAppName(name); err != nil {
		return api.AppRecord{}, err
	}
	return s.cfg.Catalog.Application(c.Request.Context(), name)
}

func (s *Server) getApplication(c *gin.Context) (reply, error) {
	r, err := s.record(c)
	if err != nil {
		return reply{}, err
	}
	info, err := r.Version(0)
	if err != nil {
		return reply{}, err
	}
	admin := grantOf(c).Can(api.RightAdmin)
	if !admin && r.Default == 0 { // nothing that may be run
		return reply{}, api.Errorf(api.CodeNotFound, "application %q does not exist", r.Name)
	}
	v := appView(info.App, admin)
	if admin {
		for _, o := range r.Versions {
			v.Perigee.Versions = append(v.Perigee.Versions, versionView(r, o, false))
		}
	}
	return reply{metadata: v}, nil
}

func versionView(r api.AppRecord, o api.AppVersionInfo, whole bool) api.VersionView {
	v := api.VersionView{Version: o.Version, Published: o.Published, Default: o.Version == r.Default}
	if whole {
		v.App = &o.App
	}
	return v
}

// patchApplication makes a new version out of the default one: the body is
// merged into it (RFC 7396), so null takes a field away.
func (s *Server) patchApplication(c *gin.Context) (reply, error) {
	r, err := s.record(c)
	if err != nil {
		return reply{}, err
	}
	info, err := r.Version(0)
	if err != nil {
		return reply{}, err
	}
	var patch map[string]any
	if err := readBody(c, &patch, false); err != nil {
		return reply{}, err
	}
	old, err := json.Marshal(info.App)
	if err != nil {
		return reply{}, err
	}
	var doc map[string]any
	if err := json.Unmarshal(old, &doc); err != nil {
		return reply{}, err
	}
	delete(doc, "version")
	merge(doc, patch)
	if doc["name"] != r.Name {
		return reply{}, api.Invalidf("name", "cannot be changed: create another application")
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return reply{}, err
	}
	var b appBody
	if err := decode(text, &b); err != nil {
		return reply{}, err
	}
	a, err := b.app.Normalize()
	if err != nil {
		return reply{}, err
	}
	return s.keepVersion(c, a)
}

// merge is RFC 7396.
func merge(doc, patch map[string]any) {
	for k, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(doc, k)
		case map[string]any:
			inner, ok := doc[k].(map[string]any)
			if !ok {
				inner = map[string]any{}
			}
			merge(inner, v)
			doc[k] = inner
		default:
			doc[k] = v
		}
	}
}

// versionOf reads the version in the path.
func versionOf(c *gin.Context) (int, error) {
	n, err := strconv.Atoi(c.Param("version"))
	if err != nil || n < 1 {
		return 0, api.Invalidf("version", "%q must be the number of a version", c.Param("version"))
	}
	return n, nil
}

func (s *Server) version(c *gin.Context) (api.AppRecord, api.AppVersionInfo, error) {
	n, err := versionOf(c)
	if err != nil {
		return api.AppRecord{}, api.AppVersionInfo{}, err
	}
	r, err := s.record(c)
	if err != nil {
		return r, api.AppVersionInfo{}, err
	}
	info, err := r.Version(n)
	return r, info, err
}

func (s *Server) getVersion(c *gin.Context) (reply, error) {
	r, info, err := s.version(c)
	if err != nil {
		return reply{}, err
	}
	return reply{metadata: versionView(r, info, true)}, nil
}

func (s *Server) getManifest(c *gin.Context) (reply, error) {
	_, info, err := s.version(c)
	if err != nil {
		return reply{}, err
	}
	text, err := manifest.Write(info.App)
	if err != nil {
		return reply{}, err
	}
	return reply{metadata: api.ManifestView{Manifest: string(text)}}, nil
}

// patchVersion publishes a version or takes it back.
func (s *Server) patchVersion(c *gin.Context) (reply, error) {
	n, err := versionOf(c)
	if err != nil {
		return reply{}, err
	}
	var b api.PublishBody
	if err := readBody(c, &b, false); err != nil {
		return reply{}, err
	}
	if b.Published == nil {
		return reply{}, api.Invalidf("published", "is missing: true publishes the version, false takes it back; all else of a version cannot change")
	}
	if err := s.cfg.Catalog.PublishVersion(c.Request.Context(), c.Param("name"), n, *b.Published); err != nil {
		return reply{}, err
	}
	return s.getVersion(c)
}

func (s *Server) deleteVersion(c *gin.Context) (reply, error) {
	n, err := versionOf(c)
	if err != nil {
		return reply{}, err
	}
	return reply{}, s.cfg.Catalog.DeleteVersion(c.Request.Context(), c.Param("name"), n)
}

// manifestSchema serves the JSON Schema of manifests, for editors.
func (s *Server) manifestSchema(c *gin.Context) {
	c.Data(http.StatusOK, "application/schema+json", []byte(manifest.Schema))
}
