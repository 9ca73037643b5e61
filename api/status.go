package api

import "net/http"

// statuses is the one table of codes and HTTP statuses (RFC 9110). Of codes with
// one status, the first is what a bare status means.
var statuses = []struct {
	code   Code
	status int
}{
	{CodeInvalid, http.StatusBadRequest},
	{CodeUnauthorized, http.StatusUnauthorized},
	{CodeForbidden, http.StatusForbidden},
	{CodeNotFound, http.StatusNotFound},
	{CodeNoCapacity, http.StatusNotFound},
	{CodeConflict, http.StatusConflict},
	{CodeTooLarge, http.StatusRequestEntityTooLarge},
	{CodeRateLimited, http.StatusTooManyRequests},
	{CodeUnavailable, http.StatusServiceUnavailable},
	{CodeUnavailable, http.StatusBadGateway}, // of a proxy before a gateway
	{CodeTimeout, http.StatusGatewayTimeout},
	{CodeInternal, http.StatusInternalServerError},
}

// HTTPStatus gives the status that an error of a code is answered with.
func HTTPStatus(c Code) int {
	for _, s := range statuses {
		if s.code == c {
			return s.status
		}
	}
	return http.StatusInternalServerError
}

// CodeOfHTTP gives the code that a status means where an answer carries none,
// as another gateway's.
func CodeOfHTTP(status int) Code {
	for _, s := range statuses {
		if s.status == status {
			return s.code
		}
	}
	return CodeInternal
}
