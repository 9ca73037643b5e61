package api

import "testing"

func TestStatuses(t *testing.T) {
	for _, tt := range []struct {
		code   Code
		status int
		back   Code // "" = the same
	}{
		{CodeInvalid, 400, ""}, {CodeUnauthorized, 401, ""}, {CodeForbidden, 403, ""}, {CodeNotFound, 404, ""},
		{CodeNoCapacity, 404, CodeNotFound}, {CodeConflict, 409, ""}, {CodeTooLarge, 413, ""}, {CodeRateLimited, 429, ""},
		{CodeInternal, 500, ""}, {CodeUnavailable, 503, ""}, {CodeTimeout, 504, ""}, {"another", 500, CodeInternal},
	} {
		back := tt.back
		if back == "" {
			back = tt.code
		}
		if s := HTTPStatus(tt.code); s != tt.status || CodeOfHTTP(s) != back {
			t.Errorf("%s is answered with %d, which means %s; want %d and %s", tt.code, s, CodeOfHTTP(s), tt.status, back)
		}
	}
	for status, want := range map[int]Code{502: CodeUnavailable, 418: CodeInternal, 200: CodeInternal} {
		if c := CodeOfHTTP(status); c != want {
			t.Errorf("%d means %s, want %s", status, c, want)
		}
	}
}
