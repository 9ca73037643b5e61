package encoder

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/xvfb"
)

// encodeProcess starts an encode process as the stream process does.
func encodeProcess(t testing.TB) (*stream, int) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs, mine := os.NewFile(uintptr(fds[0]), "theirs"), os.NewFile(uintptr(fds[1]), "mine")
	c, err := net.FileConn(mine)
	if err != nil {
		t.Fatal(err)
	}
	_ = mine.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PERIGEE_TEST_ROLE=encode")
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	start(t, cmd)
	_ = theirs.Close()
	t.Cleanup(func() { _ = c.Close() })
	return serve(t, c), cmd.Process.Pid
}

// cpu gives the processor time that a process has used.
func cpu(t testing.TB, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 on Linux
}

// percent gives the share of one core that a process takes.
func percent(t testing.TB, pid int, over time.Duration) float64 {
	t.Helper()
	before, began := cpu(t, pid), time.Now()
	time.Sleep(over)
	return float64(cpu(t, pid)-before) / float64(time.Since(began)) * 100
}

func rssMiB(t testing.TB, pid int) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, _ := strconv.Atoi(strings.Fields(string(b))[1])
	return float64(pages*os.Getpagesize()) / (1 << 20)
}

func paint(t testing.TB, display string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], display)
	cmd.Env = append(os.Environ(), "PERIGEE_TEST_ROLE=paint")
	start(t, cmd)
	return cmd
}

// A still desktop, sound server and all, must cost next to nothing.
func TestStillDesktopIsCheap(t *testing.T) {
	display, pulse := xvfb.Start(t, "-screen", "0", "1280x720x24").Display, startPulse(t)
	s, pid := encodeProcess(t)
	s.send(media.TypeConfigure, media.Configure{Display: display, Pulse: pulse, Video: true, Audio: true,
		Codec: api.H264, Screen: api.Screen{Width: 1280, Height: 720, FPS: 60}, BitrateKbps: 4000})
	frame(t, s.video)
	frame(t, s.audio)
	s.quiet()
	got := percent(t, pid, 2*time.Second)
	t.Logf("still desktop with sound: %.1f %% of a core, %.0f MiB", got, rssMiB(t, pid))
	if got >= 3 {
		t.Errorf("a still desktop costs %.1f %% of a core, want under 3", got)
	}
}

// BenchmarkCost measures 1280x720@60 of moving rectangles against Debian's
// ffmpeg with the same encoder settings, one after the other on one display.
func BenchmarkCost(b *testing.B) {
	peers := map[api.Codec][]string{
		api.H264: {"-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-profile:v", "baseline",
			"-maxrate", "4M", "-bufsize", "200k"},
		api.VP8: {"-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "-6", "-lag-in-frames", "0", "-static-thresh", "1",
			"-minrate", "4M", "-maxrate", "4M", "-bufsize", "1200k", "-qmin", "10", "-qmax", "56"},
		api.VP9: {"-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-lag-in-frames", "0", "-aq-mode", "0",
			"-minrate", "4M", "-maxrate", "4M", "-bufsize", "1200k", "-qmin", "10", "-qmax", "56", "-row-mt", "0"},
		api.AV1: nil, // Debian 12's ffmpeg has no AV1 encoder for real time
	}
	const over = 6 * time.Second
	for _, codec := range api.SoftwareCodecs() {
		b.Run(string(codec), func(b *testing.B) {
			display := xvfb.Start(b, "-screen", "0", "1280x720x24").Display
			paint(b, display)
			for b.Loop() {
				s, pid := encodeProcess(b)
				s.send(media.TypeConfigure, media.Configure{Display: display, Video: true, Codec: codec,
					Screen: api.Screen{Width: 1280, Height: 720, FPS: 60}, BitrateKbps: 4000, Threads: 1})
				frame(b, s.video)
				time.Sleep(time.Second)
				for len(s.states) > 0 {
					<-s.states
				}
				for len(s.video) > 0 {
					<-s.video
				}
				ours := percent(b, pid, over)
				frames, bits := len(s.video), 0
				for range frames {
					f := <-s.video
					bits += len(f.Data) * 8
				}
				var p50, p95 float64
				n := len(s.states)
				for range n {
					st := <-s.states
					p50, p95 = p50+st.EncodeMSP50/float64(n), max(p95, st.EncodeMSP95)
				}
				b.ReportMetric(ours, "%core")
				b.ReportMetric(float64(frames)/over.Seconds(), "fps")
				b.ReportMetric(float64(bits)/over.Seconds()/1e6, "Mb/s")
				b.ReportMetric(p50, "ms-p50")
				b.ReportMetric(p95, "ms-p95max")
				b.ReportMetric(rssMiB(b, pid), "MiB")
				_ = s.socket.Close()
				if peers[codec] == nil {
					continue
				}
				cmd := exec.Command("ffmpeg", append(append([]string{"-v", "error", "-nostdin", "-f", "x11grab", "-framerate", "60",
					"-draw_mouse", "0", "-video_size", "1280x720", "-i", display, "-threads", "1", "-b:v", "4M", "-g", "100000", "-pix_fmt", "yuv420p"},
					peers[codec]...), "-f", "null", "-")...)
				start(b, cmd)
				time.Sleep(time.Second)
				theirs := percent(b, cmd.Process.Pid, over)
				_ = cmd.Process.Kill()
				b.ReportMetric(theirs, "%ffmpeg")
				b.ReportMetric(ours/theirs, "ratio")
			}
		})
	}
}
