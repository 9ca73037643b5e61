package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

// readBody reads a JSON object into a struct. Unknown fields are ignored, for
// the contract grows; a field of the wrong type is refused by its name. An
// empty body is allowed where optional is set.
func readBody(c *gin.Context, into any, optional bool) error {
	body, err := bodyOf(c)
	if err != nil {
		return err
	}
	if optional && len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	return decode(body, into)
}

func bodyOf(c *gin.Context) ([]byte, error) {
	body, err := readAll(c.Request)
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		return nil, api.Errorf(api.CodeTooLarge, "the body is over %d bytes", tooBig.Limit)
	case err != nil:
		return nil, api.Invalidf("body", "could not be read: %v", err)
	}
	return body, nil
}

// readAll reads a body, whose length is known as a rule. Its own limit holds.
func readAll(r *http.Request) ([]byte, error) {
	if r.ContentLength <= 0 || r.ContentLength > keptBuffer { // nobody gets much memory for a promise
		return io.ReadAll(r.Body)
	}
	b := make([]byte, r.ContentLength)
	_, err := io.ReadFull(r.Body, b)
	return b, err
}

// decode reads exactly one JSON object.
func decode(body []byte, into any) error {
	body = bytes.TrimSpace(body)
	if len(body) == 0 {
		return api.Invalidf("body", "is empty: send a JSON object")
	}
	err := json.Unmarshal(body, into)
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	var ours *api.Error
	switch {
	case err == nil && body[0] != '{': // null
		return api.Invalidf("body", "must be a JSON object")
	case err == nil:
		return nil
	case errors.As(err, &ours): // a field's own reader
		return ours
	case errors.As(err, &syntax):
		return api.Invalidf("body", "is not JSON at byte %d: %s", syntax.Offset, syntax)
	case errors.As(err, &wrong) && wrong.Field == "":
		return api.Invalidf("body", "must be a JSON object, got %s", wrong.Value)
	case errors.As(err, &wrong):
		return api.Invalidf(wrong.Field, "must be %s, got %s", kindName(wrong), wrong.Value)
	default:
		return api.Invalidf("body", "cannot be read: %v", err)
	}
}

// kindName says in JSON's words what a field should have been.
func kindName(e *json.UnmarshalTypeError) string {
	switch e.Type.Kind().String() {
	case "string":
		return "a string"
	case "bool":
		return "true or false"
	case "int", "int64", "int32", "uint32", "uint64":
		return "a whole number"
	case "float64":
		return "a number"
	case "slice", "array":
		return "a list"
	default:
		return "an object"
	}
}

// createRequest turns the body of a create into a checked request.
func createRequest(b api.CreateBody) (api.CreateRequest, error) {
	r := api.CreateRequest{
		App: b.App, AppVersion: b.AppVersion, Region: b.Region, Joinable: b.Joinable,
		Ephemeral: b.Ephemeral == nil || *b.Ephemeral, IdleMinutes: api.IdleUnset, ExtraData: b.ExtraData,
	}
	if b.IdleMinutes != nil {
		if r.IdleMinutes = *b.IdleMinutes; r.IdleMinutes < 0 {
			return r, api.Invalidf("idle_time_min", "must be 0 to %d minutes, got %d", api.MaxIdleMinutes, r.IdleMinutes)
		}
	}
	if bytes.Equal(r.ExtraData, []byte("null")) {
		r.ExtraData = nil
	}
	var err error
	if r.Screen, err = screen(b.Screen); err != nil {
		return r, err
	}
	if b.Perigee != nil {
		for i, name := range b.Perigee.Codecs {
			codec, err := api.ParseCodec(name)
			if err != nil {
				return r, api.Invalidf(fmt.Sprintf("perigee.codecs[%d]", i), "%s", asError(err).Message)
			}
			r.Codecs = append(r.Codecs, codec)
		}
		if len(r.Codecs) > len(api.Codecs()) {
			return r, api.Invalidf("perigee.codecs", "at most %d codecs, got %d", len(api.Codecs()), len(r.Codecs))
		}
		r.IdempotencyKey, r.WaitS = b.Perigee.IdempotencyKey, b.Perigee.WaitS
		if r.Probes, err = measured(b.Perigee.Probes); err != nil {
			return r, err
		}
	}
	asked := r.Screen
	r.Asked = &asked
	return r.Normalize()
}

// screen reads a screen of which parts may be missing (zero); what is given
// must be in its limits.
func screen(b *api.ScreenBody) (api.Screen, error) {
	var s api.Screen
	if b == nil {
		return s, nil
	}
	for _, f := range []struct {
		name  string
		given *int
		into  *int
		least int
	}{
		{"width", b.Width, &s.Width, 1}, {"height", b.Height, &s.Height, 1},
		{"fps", b.FPS, &s.FPS, 1}, {"density", b.Density, &s.Density, api.MinDensity},
	} {
		if f.given == nil {
			continue
		}
		if *f.given < f.least {
			return s, api.Invalidf("screen."+f.name, "must be at least %d, got %d", f.least, *f.given)
		}
		*f.into = *f.given
	}
	return s, nil
}

// joinScreen reads the screen of a join: zero parts keep the present value.
func joinScreen(b *api.ScreenBody) (api.Screen, error) {
	s, err := screen(b)
	if err != nil {
		return s, err
	}
	if (s.Width == 0) != (s.Height == 0) {
		return s, api.Invalidf("screen", "needs width and height together")
	}
	full, err := s.Normalize()
	if err != nil {
		return s, err
	}
	if s.Width != 0 {
		s.Width, s.Height = full.Width, full.Height
	}
	return s, nil
}

// queryBool reads a flag of the query; missing is false.
func queryBool(c *gin.Context, names ...string) (bool, error) {
	for _, name := range names {
		text, ok := c.GetQuery(name)
		if !ok || text == "" {
			continue
		}
		v, err := strconv.ParseBool(text)
		if err != nil {
			return false, api.Invalidf(name, "%q must be true or false", text)
		}
		return v, nil
	}
	return false, nil
}

// queryCount reads a number of the query that is not negative; missing is 0.
func queryCount(c *gin.Context, name string) (int, error) {
	text := c.Query(name)
	if text == "" {
		return 0, nil
	}
	v, err := strconv.ParseInt(text, 10, 32)
	if err != nil || v < 0 {
		return 0, api.Invalidf(name, "%q must be a number from 0 up", text)
	}
	return int(v), nil
}

// sessionID reads the id of the path.
func sessionID(c *gin.Context) (api.SessionID, error) {
	id := c.Param("id")
	if !api.ValidID(id) {
		return "", api.Invalidf("id", "%q is not a session's id", id)
	}
	return api.SessionID(id), nil
}
