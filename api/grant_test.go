package api

import (
	"errors"
	"fmt"
	"testing"
)

func TestGrantCan(t *testing.T) {
	all := []Right{RightAdmin, RightSessions, RightCreate, RightJoin, RightOnBehalf, RightNode}
	may := func(have ...Right) map[Right]bool {
		m := map[Right]bool{}
		for _, r := range all {
			m[r] = Grant{Rights: have}.Can(r)
		}
		return m
	}
	for r, ok := range may(RightAdmin) {
		if !ok {
			t.Errorf("admin may not %s", r)
		}
	}
	page := may(RightCreate, RightJoin)
	if !page[RightCreate] || !page[RightJoin] || page[RightSessions] || page[RightOnBehalf] || page[RightAdmin] || page[RightNode] {
		t.Errorf("page token: %v", page)
	}
	account := may(RightSessions, RightOnBehalf)
	if !account[RightCreate] || !account[RightOnBehalf] || account[RightAdmin] || account[RightNode] {
		t.Errorf("account token: %v", account)
	}
}

func TestErrorText(t *testing.T) {
	cause := errors.New("disk full")
	err := &Error{Code: CodeInternal, Field: "app", Message: "cannot be stored", Err: cause}
	if got, want := err.Error(), "app: cannot be stored: disk full"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if !errors.Is(err, cause) {
		t.Error("the cause is hidden")
	}
	if c := CodeOf(fmt.Errorf("create: %w", err)); c != CodeInternal {
		t.Errorf("code %q", c)
	}
	if CodeOf(nil) != "" || CodeOf(cause) != CodeInternal {
		t.Error("codes of plain errors")
	}
}
