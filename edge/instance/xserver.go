package instance

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media/xauth"
)

const (
	lockPattern = "/tmp/.X%d-lock"

	// Displays are drawn from this range: below it are people's own servers.
	firstDisplay = 100
	countDisplay = 30_000
	displayTries = 20

	fileXAuth = "xauth"
)

// xserver is the instance's own Xvfb.
type xserver struct {
	*child
	out     *output
	number  int
	xauth   string // on the host
	staged  string // for the sandbox
	cookie  []byte
	control *control
}

func (x *xserver) display() string { return ":" + strconv.Itoa(x.number) }

func socketOf(number int) string {
	return filepath.Join(xauth.SocketFolder, "X"+strconv.Itoa(number))
}

// startX starts Xvfb, waits until it answers and sets the size.
func startX(ctx context.Context, l *launcher, st *stage, dir local.Session, g *group, size api.Screen) (*xserver, error) {
	tool, err := lookTool("Xvfb", "xvfb")
	if err != nil {
		return nil, err
	}
	x := &xserver{cookie: make([]byte, 16), xauth: dir.Path(fileXAuth)}
	if _, err := rand.Read(x.cookie); err != nil {
		return nil, fmt.Errorf("make X cookie: %w", err)
	}
	file := xauth.File(x.cookie)
	if err := os.WriteFile(x.xauth, file, 0o600); err != nil {
		return nil, fmt.Errorf("write X cookie: %w", err)
	}
	if x.staged, err = st.write("xauth", file, 0o600); err != nil {
		return nil, err
	}
	if err := makeSocketFolder(xauth.SocketFolder); err != nil {
		return nil, err
	}
	if x.number, err = takeDisplay(); err != nil {
		return nil, err
	}
	if err := x.run(ctx, tool, l, st, dir, g); err != nil {
		return nil, errors.Join(err, x.stop())
	}
	if x.control, err = dialX(socketOf(x.number), x.cookie); err == nil {
		err = x.control.resize(size.Width, size.Height)
	}
	if err == nil {
		err = x.control.manage(size.Width, size.Height)
	}
	if err != nil {
		return nil, errors.Join(err, x.stop())
	}
	return x, nil
}

func (x *xserver) run(ctx context.Context, tool string, l *launcher, st *stage, dir local.Session, g *group) error {
	out, w, err := newOutput(dir.Path("x.log"))
	if err != nil {
		return err
	}
	defer w.Close()
	x.out = out
	ready, readyW, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer ready.Close()
	defer readyW.Close()
	cmd := exec.Command(tool, x.display(), "-displayfd", "3",
		"-screen", "0", fmt.Sprintf("%dx%dx24", api.MaxWidth, api.MaxHeight),
		"-auth", x.staged, "-nolisten", "tcp", "-noreset")
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8"}
	cmd.Stdout, cmd.Stderr = w, w
	cmd.ExtraFiles = []*os.File{readyW}
	cmd.SysProcAttr = st.attr()
	if x.child, err = l.start("X server", cmd, g); err != nil {
		return err
	}
	readyW.Close()
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := bufio.NewReader(ready).ReadString('\n'); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the X server: %w", context.Cause(ctx))
		}
		out.settle()
		return fmt.Errorf("the X server did not start: %s", clip(out.lastLine()))
	}
	return nil
}

// stop ends the server and removes its socket and lock.
func (x *xserver) stop() error {
	if x.control != nil {
		x.control.close()
	}
	if x.child != nil {
		x.kill(time.Second)
	}
	if x.out != nil {
		x.out.close()
	}
	return freeDisplay(x.number)
}

// makeSocketFolder makes the folder of X sockets, or checks the one that is
// there: it lies where everyone may write, so it must be a folder, and root's
// or ours.
func makeSocketFolder(path string) error {
	err := os.Mkdir(path, 0o777)
	if err == nil {
		err = os.Chmod(path, 0o777|os.ModeSticky) // Mkdir is subject to the umask
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make X socket folder: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("check X socket folder: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s must be a folder of root's: remove it", path)
	}
	return nil
}

// takeDisplay reserves a display number by X's own lock file, which Xvfb does
// not write itself when it is asked to report its display.
func takeDisplay() (int, error) {
	for range displayTries {
		r, err := rand.Int(rand.Reader, big.NewInt(countDisplay))
		if err != nil {
			return 0, fmt.Errorf("draw display number: %w", err)
		}
		n := firstDisplay + int(r.Int64())
		if _, err := os.Lstat(socketOf(n)); err == nil {
			continue
		}
		f, err := os.OpenFile(fmt.Sprintf(lockPattern, n), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o444)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("lock display: %w", err)
		}
		_, err = fmt.Fprintf(f, "%10d\n", os.Getpid())
		if err = errors.Join(err, f.Close()); err != nil {
			return 0, fmt.Errorf("lock display: %w", errors.Join(err, os.Remove(f.Name())))
		}
		return n, nil
	}
	return 0, fmt.Errorf("no free X display found in %d tries", displayTries)
}

// freeDisplay removes a display's socket and lock.
func freeDisplay(number int) error {
	if number == 0 {
		return nil
	}
	var errs []error
	for _, p := range []string{socketOf(number), fmt.Sprintf(lockPattern, number)} {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("free display: %w", err))
		}
	}
	return errors.Join(errs...)
}

// freeDeadDisplay removes what a killed shim left of its display, unless the
// number has gone to another.
func freeDeadDisplay(display string, shim int) error {
	number, _ := strconv.Atoi(strings.TrimPrefix(display, ":")) // 0 when it is none of ours
	if number < firstDisplay {
		return nil
	}
	lock, _ := os.ReadFile(fmt.Sprintf(lockPattern, number)) // none: nothing is left
	if strings.TrimSpace(string(lock)) != strconv.Itoa(shim) {
		return nil
	}
	if c, err := net.DialTimeout("unix", socketOf(number), time.Second); err == nil {
		if pid := peer(c); pid > 1 { // its server has not ended yet
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		c.Close()
	}
	return freeDisplay(number)
}
