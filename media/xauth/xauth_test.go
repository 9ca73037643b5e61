package xauth

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSocket(t *testing.T) {
	for display, want := range map[string][2]string{
		":7":              {"/tmp/.X11-unix/X7", "7"},
		"unix:12.0":       {"/tmp/.X11-unix/X12", "12"},
		":007":            {"/tmp/.X11-unix/X7", "7"},
		"/run/x/X11":      {"/run/x/X11", "11"},
		"/run/other/sock": {"/run/other/sock", "sock"},
	} {
		path, number, err := Socket(display)
		if err != nil || path != want[0] || number != want[1] {
			t.Errorf("%s: %s, %s, %v; want %v", display, path, number, err, want)
		}
	}
	for _, bad := range []string{"", "7", "host:7", ":x", ":-1", ":99999"} {
		if _, _, err := Socket(bad); !errors.Is(err, ErrDisplay) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestFileAndSetup(t *testing.T) {
	cookie := bytes.Repeat([]byte{7}, 16)
	want := "\xff\xff" + "\x00\x00" + "\x00\x00" + "\x00\x12MIT-MAGIC-COOKIE-1" + "\x00\x10" + string(cookie)
	if got := string(File(cookie)); got != want {
		t.Errorf("file is %q", got)
	}
	path := filepath.Join(t.TempDir(), "xauth")
	if err := os.WriteFile(path, File(cookie), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := SetupFrom(path, "5")
	if err != nil || !bytes.Equal(got, Setup(cookie)) || len(got) != 12+20+16 || got[0] != 'l' || got[6] != 18 || got[8] != 16 {
		t.Errorf("setup %q, %v", got, err)
	}
	if got, err := SetupFrom("", "5"); err != nil || len(got) != 12 {
		t.Errorf("setup without a cookie %q, %v", got, err)
	}
}

func TestSetupFromSaysWhatIsWrong(t *testing.T) {
	if _, err := SetupFrom(filepath.Join(t.TempDir(), "none"), "5"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	// A record for another display, then rubbish.
	b := "\x01\x00" + "\x00\x04host" + "\x00\x018" + "\x00\x12MIT-MAGIC-COOKIE-1" + "\x00\x02ab" + "\xff"
	path := filepath.Join(t.TempDir(), "xauth")
	if err := os.WriteFile(path, []byte(b), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := SetupFrom(path, "5"); err == nil || !strings.Contains(err.Error(), "for display 5") {
		t.Errorf("another display's cookie: %v", err)
	}
	if got, err := SetupFrom(path, "8"); err != nil || !bytes.HasSuffix(got, []byte("ab\x00\x00")) {
		t.Errorf("this display's: %q, %v", got, err)
	}
}

func FuzzFind(f *testing.F) {
	f.Add(File([]byte("0123456789abcdef")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c := find(b, "1"); len(c) > len(b) {
			t.Errorf("found %d bytes in %d", len(c), len(b))
		}
	})
}
