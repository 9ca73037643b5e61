package instance

import (
	"slices"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

// plainBox is a program's sandbox whose arguments can be looked at.
func plainBox() boxConfig {
	return boxConfig{
		spec: api.Spec{App: api.App{Command: []string{"true"}}}, stage: &stage{l: &launcher{private: true}},
		x: &xserver{staged: "/stage/xauth"}, sound: &sound{staged: "/stage/pulse"}, shared: "/stage/shared",
	}
}

// TestExecEnvironmentIsNoArgument: what a caller names and gives variables
// stays names and values, whichever options of bubblewrap they look like.
func TestExecEnvironmentIsNoArgument(t *testing.T) {
	for _, env := range []map[string]string{
		{"!": "--new-session", "--bind": "--uid", "/var/lib": "/tmp"},
		{"A": "--uid", "B": "--gid", "C": "--unshare-user", "D": "--new-session", "E": "--bind"},
		{"--uid": "--setenv", "--unshare-net": "--gid"},
	} {
		clean, b := plainBox(), plainBox()
		want := clean.entering(&spaces{}, api.EnterRequest{})
		b.more = env
		got := b.entering(&spaces{}, api.EnterRequest{Environment: env})
		if len(got) != len(want)+3*len(env) {
			t.Errorf("%v: %d arguments, want %d and three for each variable", env, len(got), len(want))
		}
		first := slices.Index(want, "--setenv")
		if !slices.Equal(got[:first], want[:first]) {
			t.Errorf("%v changes what is before the environment:\n%q\nwant\n%q", env, got[:first], want[:first])
		}
		seen := map[string]string{}
		for rest := got[first:]; len(rest) > 0; rest = rest[3:] {
			if len(rest) < 3 || rest[0] != "--setenv" {
				t.Fatalf("%v: %q is no variable", env, rest)
			}
			seen[rest[1]] = rest[2]
		}
		for k, v := range env {
			if seen[k] != v {
				t.Errorf("%v: %q is %q", env, k, seen[k])
			}
		}
	}
}

// TestExecMakesNoSpacesOfItsOwn: it enters the application's.
func TestExecMakesNoSpacesOfItsOwn(t *testing.T) {
	b := plainBox()
	got := b.entering(&spaces{}, api.EnterRequest{Dir: "/tmp"})
	for _, a := range []string{"--unshare-user", "--unshare-pid", "--unshare-net", "--new-session"} {
		if slices.Contains(got, a) {
			t.Errorf("%s is among %q", a, got)
		}
		if !slices.Contains(b.arguments(), a) {
			t.Errorf("the application lacks %s", a)
		}
	}
	if n := len(got); got[n-2] != "--chdir" || got[n-1] != "/tmp" {
		t.Errorf("ends with %q", got[n-2:])
	}
	if n := strings.Count(strings.Join(got, " "), "--uid"); n != 1 {
		t.Errorf("%d users", n)
	}
}

func TestArgumentsHaveNoZeroes(t *testing.T) {
	if f, err := argumentFile([]string{"--setenv", "A", "b\x00--bind\x00/"}); err == nil {
		f.Close()
		t.Error("an argument that is several is taken")
	}
}
