package instance

import (
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

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

// attended runs a command without a sandbox for a visitor who takes a frame
// each pace, beginning when the command has ended or cannot go on.
func attended(t *testing.T, script string, pace time.Duration) (string, api.EnterControl) {
	t.Helper()
	v := &visit{out: make(chan []byte), done: make(chan struct{}), input: newFeed(), control: make(chan api.EnterControl)}
	v.input.close(nil)
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c := &entered{}
	if err := c.connect(cmd, api.EnterRequest{}, nil); err != nil {
		t.Fatal(err)
	}
	l := newLauncher()
	defer l.close()
	var err error
	if c.child, err = l.start("command", cmd, nil); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(-c.pid(), syscall.SIGKILL) }() // what it left
	for _, f := range c.theirs {
		f.Close()
	}
	last := make(chan api.EnterControl, 1)
	go func() {
		defer close(v.out)
		last <- v.attend(c)
	}()
	var out strings.Builder
	for f := range v.out {
		if f[0] == api.EnterOutput {
			out.Write(f[1:])
		}
		time.Sleep(pace)
	}
	return out.String(), <-last
}

// TestExecOutputIsWhole: the last of it lies in the pipe when the command has
// ended, and a slow visitor takes it for longer than a command may settle.
func TestExecOutputIsWhole(t *testing.T) {
	const size = 200 << 10
	out, last := attended(t, "head -c 204800 /dev/zero; exit 4", execSettle+100*time.Millisecond)
	if len(out) != size || last.Exit != 4 || last.Code != "" {
		t.Errorf("%d of %d bytes came, ended %+v", len(out), size, last)
	}
}

func TestExecEndsThoughItsOutputIsHeld(t *testing.T) {
	for script, want := range map[string]string{
		"sleep 60 & echo up":                         "up\n",
		"while echo x; do :; done & echo up":         "up\n",
		"while sleep 0.1; do echo x; done & echo up": "up\n",
	} {
		begun := time.Now()
		out, last := attended(t, script, 0)
		if d := time.Since(begun); !strings.Contains(out, want) || last.Exit != 0 || d > 5*time.Second {
			t.Errorf("%s: %d bytes, ended %+v after %s", script, len(out), last, d)
		}
	}
}
