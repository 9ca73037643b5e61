package instance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"sync/atomic"
	"time"

	"github.com/jezek/xgb"
	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/image"
	"github.com/perigee-cloud/perigee/edge/local"
)

// ShimConfig of one shim process.
type ShimConfig struct {
	// Dir is the session's folder with spec.json in it.
	Dir local.Session
	Log *slog.Logger
	// Grace is how long the application may take to end when asked; 0 = 5 s.
	Grace time.Duration
	// StartDeadline bounds the start; 0 = 10 s.
	StartDeadline time.Duration
	// Orphan ends an instance to which nobody has been connected for so long; 0 = 10 min.
	Orphan time.Duration
	// CgroupRoot is where the control groups are mounted; "" = /sys/fs/cgroup.
	CgroupRoot string
	// CDI are the folders of device specifications; nil = /etc/cdi and /var/run/cdi.
	CDI []string
	// Images are the node's, for containers.
	Images image.Config
}

const (
	defaultGrace    = 5 * time.Second
	defaultStart    = 10 * time.Second
	defaultOrphan   = 10 * time.Minute
	defaultCgroups  = "/sys/fs/cgroup"
	serverMemoryMiB = 512       // the X and the sound server together
	serverProcesses = 256       // threads count
	fileCgroups     = "cgroups" // of the session's folder: our groups, one a line
)

// shim holds one instance. All fields are of RunShim's goroutine, but for hub.
type shim struct {
	cfg    ShimConfig
	log    *slog.Logger
	spec   api.Spec
	hub    *hub
	visits *visits
	l      *launcher
	stage  *stage
	appG   *group
	srvG   *group
	x      *xserver
	sound  *sound
	net    *network
	img    *image.Image // of a container
	disk   string       // on the stage: what the instance writes to
	box    boxConfig
	app    *application
	pads   *pads // nil = none
	door   *local.Door
	// running is app, for the door.
	running atomic.Pointer[application]
	sounds  int  // sound servers that died
	runs    int  // how often the application was started again
	hung    bool // the watchdog killed it
	ended   bool // it ended by itself, and is not started again
}

// end is why an instance ends.
type end struct {
	observed api.Observed
	reason   api.Reason
	message  string
	force    bool
}

// RunShim runs the instance that Dir's spec describes until the application
// ends, somebody asks for the end, ctx ends, or nobody has been connected for
// the orphan time. It returns an error only when it could not say what
// happened; a failed application is a state and not an error.
func RunShim(ctx context.Context, cfg ShimConfig) error {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.Grace, defaultGrace)
	def(&cfg.StartDeadline, defaultStart)
	def(&cfg.Orphan, defaultOrphan)
	if cfg.CDI == nil {
		cfg.CDI = cdiDirs()
	}
	if cfg.CgroupRoot == "" {
		cfg.CgroupRoot = defaultCgroups
	}
	spec, err := cfg.Dir.ReadSpec()
	if err != nil {
		return fmt.Errorf("run shim: %w", err)
	}
	if spec.App, err = spec.App.Normalize(); err != nil {
		return fmt.Errorf("run shim: %w", err)
	}
	if spec.Screen, err = spec.Screen.Normalize(); err != nil {
		return fmt.Errorf("run shim: %w", err)
	}
	s := &shim{cfg: cfg, log: cfg.Log, spec: spec}
	if id, g, err := cfg.Dir.ID(); err == nil {
		s.log = cfg.Log.With("session", id, "generation", g)
	}
	s.hub, err = newHub(cfg.Dir, local.InstanceState{
		PID: os.Getpid(), Observed: api.ObservedStarting, Screen: spec.Screen,
	})
	if err != nil {
		return fmt.Errorf("run shim: %w", err)
	}
	defer s.hub.close()
	s.visits = newVisits(s.hub.tell, s.log)
	s.hub.visit.Store(s.visits)
	// Dumps of memory would outlive the session and hold what was in it.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})

	xgb.Logger.SetOutput(io.Discard) // it reports what its caller is told anyway
	// What we were started with open is not for the application.
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) // since Linux 5.11

	begun := time.Now()
	e, err := s.start(ctx)
	if err == nil {
		s.log.Info("instance runs", "app", spec.App.Name, "after", time.Since(begun))
		e = s.watch(ctx)
	}
	s.hub.leave() // no more requests; the final state follows
	s.visits.close()
	if err := s.clean(e.force); err != nil {
		s.log.Error("instance could not be cleaned", "error", err)
	}
	s.log.Info("instance ended", "observed", e.observed, "reason", e.reason, "message", e.message)
	return s.hub.set(func(st *local.InstanceState) {
		st.Observed, st.Reason, st.Message = e.observed, e.reason, clip(e.message)
	})
}

// bound makes the control groups, where the machine lets us.
func (s *shim) bound() error {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return fmt.Errorf("read own cgroup: %w", err)
	}
	name, err := s.groupName()
	if err != nil {
		return err
	}
	var c *cgroups
	for range 3 { // another instance's end may take the common folder away between the two
		if c, err = findCgroups(s.cfg.CgroupRoot, own); err == nil {
			s.appG, err = c.make(name+"-app", s.spec.App.Resources)
		}
		if err == nil {
			break
		}
	}
	if err != nil {
		s.log.Warn("no cgroups: CPU and process limits are off, memory is limited per process", "error", err)
		return nil
	}
	s.srvG, err = c.make(name+"-srv", api.Resources{
		CPUMillis: s.spec.App.Resources.CPUMillis, MemoryMiB: serverMemoryMiB, Processes: serverProcesses,
	})
	if err != nil {
		s.log.Warn("no cgroup for the servers: their memory is not limited", "error", err)
	}
	return writeGroups(s.cfg.Dir, s.appG, s.srvG)
}

func (s *shim) groupName() (string, error) {
	id, g, err := s.cfg.Dir.ID()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s.%d", id, g), nil
}

func (s *shim) resize(size api.Screen) {
	if err := s.x.control.resize(size.Width, size.Height); err != nil {
		s.log.Warn("resize failed", "error", err)
		return
	}
	if err := s.hub.set(func(st *local.InstanceState) { st.Screen = size }); err != nil {
		s.log.Warn("state could not be written", "error", err)
	}
	if err := s.tellApp(size); err != nil {
		s.log.Warn("the application is not told its screen", "error", err)
	}
}

func (s *shim) restoreSound(ctx context.Context) error {
	s.sounds++
	last := s.sound.out.lastLine()
	if s.sounds > soundRestarts {
		return fmt.Errorf("%d times, %s", s.sounds, last)
	}
	s.log.Warn("sound server ended and is started again", "last", last)
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StartDeadline)
	defer cancel()
	return s.sound.run(ctx)
}

// clean ends what is left and removes every trace outside the session's folder.
func (s *shim) clean(force bool) error {
	grace := s.cfg.Grace
	if force {
		grace = 0
	}
	var errs []error
	s.door.Close() // what comes over it needs what ends below
	if s.app != nil {
		errs = append(errs, s.app.stop(grace))
		if !force || s.ended {
			if err := s.runHook(context.Background(), "post_stop", s.spec.App.Hooks.PostStop); err != nil {
				s.log.Warn("a hook failed", "error", err)
			}
		}
	}
	if s.pads != nil {
		s.pads.Close()
	}
	errs = append(errs, s.net.stop())
	if s.sound != nil {
		errs = append(errs, s.sound.stop())
	}
	if s.x != nil {
		errs = append(errs, s.x.stop())
	}
	if s.l != nil {
		s.l.close()
	}
	if s.img != nil {
		errs = append(errs, s.img.Release())
	}
	for _, g := range []*group{s.appG, s.srvG} {
		errs = append(errs, g.kill(), g.remove())
	}
	return errors.Join(errs...)
}
