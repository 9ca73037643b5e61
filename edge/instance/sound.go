package instance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media"
)

const (
	dirPulse  = "pulse"
	pulseName = "s"
	// soundRestarts bounds how often a sound server that died is started again.
	soundRestarts = 5
)

// sound is the instance's own PulseAudio, with one sink that goes nowhere: the
// encode process records its monitor.
type sound struct {
	*child
	launcher *launcher
	group    *group
	attr     func() *syscall.SysProcAttr
	argv     []string
	home     string // the server's own
	out      *output
	w        *os.File // where it writes to
	host     string   // the socket's folder on the host
	staged   string   // the same for the sandbox
}

// server is the address on the host: "unix:/…".
func (s *sound) server() string { return "unix:" + filepath.Join(s.host, pulseName) }

// soundScript is read by the sound server at its start. Clients come over the
// socket only, and may not load modules: a module can open any file.
const soundScript = `load-module module-native-protocol-unix auth-anonymous=1 socket=%s
load-module module-null-sink sink_name=perigee rate=48000 channels=2 sink_properties=device.description=Perigee
set-default-sink perigee
set-default-source perigee.monitor
`

// microphoneScript adds what the encode process plays the client's microphone
// into, and a source that takes it from there: many applications do not show a
// sink's monitor to choose. Without rewinding the sink renders 50 ms ahead
// instead of 2 s, so that a voice is heard at once.
const microphoneScript = `load-module module-null-sink sink_name=` + media.MicrophoneSink + ` rate=48000 channels=1 norewinds=1 sink_properties=device.description=Perigee-microphone
load-module module-remap-source source_name=microphone master=` + media.MicrophoneSink + `.monitor source_properties=device.description=Microphone
set-default-source microphone
`

// startSound starts the sound server and waits until it answers.
func startSound(ctx context.Context, l *launcher, st *stage, dir local.Session, g *group, microphone bool) (*sound, error) {
	tool, err := lookTool("pulseaudio", "pulseaudio")
	if err != nil {
		return nil, err
	}
	s := &sound{host: dir.Path(dirPulse), launcher: l, group: g, attr: st.attr}
	if err := os.MkdirAll(s.host, 0o755); err != nil {
		return nil, fmt.Errorf("make sound folder: %w", err)
	}
	if err := st.own(s.host); err != nil {
		return nil, fmt.Errorf("give sound folder: %w", err)
	}
	if s.staged, err = st.share(s.host, dirPulse); err != nil {
		return nil, err
	}
	if s.home, err = st.folder("pulse-home"); err != nil {
		return nil, err
	}
	text := fmt.Appendf(nil, soundScript, filepath.Join(s.staged, pulseName))
	if microphone {
		text = append(text, microphoneScript...)
	}
	script, err := st.write("pulse.pa", text, 0o600)
	if err != nil {
		return nil, err
	}
	s.argv = []string{tool, "-n", "-F", script, "--daemonize=no", "--exit-idle-time=-1",
		"--disallow-exit", "--disallow-module-loading=yes", "--disable-shm=yes", "--use-pid-file=no",
		"--high-priority=no", "--realtime=no", "--log-target=stderr", "--log-level=error"}
	out, w, err := newOutput(dir.Path("pulse.log"))
	if err != nil {
		return nil, err
	}
	s.out, s.w = out, w
	if err := s.run(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// run starts the server's process: the first, or one in place of a dead one.
func (s *sound) run(ctx context.Context) error {
	cmd := exec.Command(s.argv[0], s.argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{
		"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "HOME=" + s.home, "XDG_RUNTIME_DIR=" + s.home,
		"DBUS_SESSION_BUS_ADDRESS=disabled:", "DBUS_SYSTEM_BUS_ADDRESS=disabled:",
	}
	cmd.Stdout, cmd.Stderr = s.w, s.w
	cmd.SysProcAttr = s.attr()
	c, err := s.launcher.start("sound server", cmd, s.group)
	if err != nil {
		return err
	}
	s.child = c
	return s.wait(ctx)
}

// wait dials until the server answers.
func (s *sound) wait(ctx context.Context) error {
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := net.Dial("unix", filepath.Join(s.host, pulseName))
		if err == nil {
			return c.Close()
		}
		select {
		case <-s.ended:
			s.out.settle()
			return fmt.Errorf("the sound server did not start: %s", clip(s.out.lastLine()))
		case <-ctx.Done():
			return fmt.Errorf("wait for the sound server: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func (s *sound) stop() error {
	if s.child != nil {
		s.kill(time.Second)
	}
	s.w.Close()
	s.out.close()
	if err := os.RemoveAll(s.host); err != nil {
		return fmt.Errorf("remove sound folder: %w", err)
	}
	return nil
}
