package api_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func TestExecTakesVariablesOnly(t *testing.T) {
	for name, ok := range map[string]bool{
		"A": true, "_": true, "a1_Z": true, "LC_ALL": true,
		"": false, "!": false, "--bind": false, "--setenv": false, "/var/lib": false, "1A": false, "A-B": false, "A=B": false,
		"A B": false, "A\x00B": false, "Ä": false, "@": false, "[": false, "`": false, "{": false,
	} {
		_, err := api.EnterRequest{Op: api.EnterExec, Command: []string{"true"}, Environment: map[string]string{name: "--uid"}}.Normalize()
		e, named := errors.AsType[*api.Error](err)
		if ok != (err == nil) || !ok && (!named || e.Field != "environment" || !strings.Contains(e.Message, "letters, digits")) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
