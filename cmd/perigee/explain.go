package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"github.com/perigee-cloud/perigee/api"
)

// usageError is a command line that cannot be meant.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func isUsage(err error) bool {
	var u usageError
	return errors.As(err, &u)
}

// explain says in one line what went wrong and what can be done.
func explain(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	var e *api.Error
	var op *net.OpError
	switch {
	case isUsage(err):
		return text
	case errors.As(err, &e):
		return explainAnswer(e, text)
	case errors.Is(err, fs.ErrPermission) && errors.As(err, &op):
		return fmt.Sprintf("the admin socket is for root and the scheduler's user alone (%s); use sudo, or --url and --token", op)
	case errors.As(err, &op) && (errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)):
		return fmt.Sprintf("no scheduler answers (%s); start one with \"perigee scheduler\", or name it by --socket or --url", op)
	default:
		return text
	}
}

// explainAnswer adds to the API's answer what helps at a command line.
func explainAnswer(e *api.Error, text string) string {
	switch e.Code {
	case api.CodeUnauthorized:
		return text + "; give a token in PERIGEE_TOKEN, or use the admin socket"
	case api.CodeForbidden:
		return text + "; use a token that has the right, or the admin socket"
	case api.CodeUnavailable, api.CodeTimeout:
		return text + "; try again"
	case api.CodeNoCapacity:
		for _, r := range e.Refusals {
			text += "; "
			if r.Node != "" {
				text += "node " + string(r.Node) + ": "
			}
			text += r.Detail + " (" + string(r.Code) + ")"
		}
	}
	return text
}
