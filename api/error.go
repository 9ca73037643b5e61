package api

import (
	"errors"
	"fmt"
)

// Code classifies an Error; the gateway maps each to one HTTP status.
type Code string

// The codes an Error can carry.
const (
	CodeInvalid      Code = "invalid"      // the request is wrong; retrying it unchanged cannot help
	CodeUnauthorized Code = "unauthorized" // no valid token or ticket
	CodeForbidden    Code = "forbidden"    // a valid token without the right
	CodeNotFound     Code = "not_found"    // no such object
	CodeConflict     Code = "conflict"     // the object is in a state that does not allow it
	CodeNoCapacity   Code = "no_capacity"  // no node can host the session now
	CodeTooLarge     Code = "too_large"    // a body or frame over its limit
	CodeRateLimited  Code = "rate_limited" // too many requests
	CodeUnavailable  Code = "unavailable"  // no leader, no bus: retry later
	CodeTimeout      Code = "timeout"      // a deadline passed
	CodeInternal     Code = "internal"     // a fault of ours
)

// Error is what every Perigee call answers when it fails for a reason the
// caller should understand. Field names the offending input, when one does.
type Error struct {
	Code    Code   `json:"code"`
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
	// Refusals says, for CodeNoCapacity, why each candidate was refused.
	Refusals []Refusal `json:"refusals,omitempty"`
	Err      error     `json:"-"`
}

// Error gives the message with the field that caused it.
func (e *Error) Error() string {
	s := e.Message
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error of a code.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Invalidf makes a CodeInvalid Error that names the offending field.
func Invalidf(field, format string, args ...any) *Error {
	return &Error{Code: CodeInvalid, Field: field, Message: fmt.Sprintf(format, args...)}
}

// CodeOf gives the code of the first Error in err's chain, CodeInternal when
// there is none and "" when err is nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}
