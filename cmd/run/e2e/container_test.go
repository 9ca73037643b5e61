package e2e

import (
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/perigee-cloud/perigee/cmd/run/site"
	"github.com/perigee-cloud/perigee/edge/image/imagetest"
)

// TestContainerStreams shows an application that is an image of a registry in a
// real browser: its picture, its sound, and that it hears keys and pointer.
func TestContainerStreams(t *testing.T) {
	d, err := imagetest.Start(t.Context(), "")
	if errors.Is(err, imagetest.ErrAbsent) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	host, stop := imagetest.Serve(nil)
	t.Cleanup(func() {
		stop()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("containerd says:\n%s", d.Warnings())
		}
	})
	bin, err := site.Bin()
	if err != nil {
		t.Fatal(err)
	}
	pacat, err := exec.LookPath("pacat") // plays the tone
	if err != nil {
		t.Skip(err)
	}
	files, err := imagetest.Programs(map[string]string{"/latency": filepath.Join(bin, "latencyapp"), "/bin/pacat": pacat})
	if err != nil {
		t.Fatal(err)
	}
	layer, err := imagetest.Layer(files)
	if err != nil {
		t.Fatal(err)
	}
	img, err := imagetest.Image(v1.Config{Entrypoint: []string{"/latency"}, Cmd: []string{"-tone", "-echo", "echo"}}, layer)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := imagetest.Push(t.Context(), host+"/latency:1", img)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	if _, err := w.AddEdge(t.Context(), "harbour", "--containerd", d.Socket); err != nil {
		t.Fatal(err)
	}
	if _, err := w.CLI(t.Context(), "app", "put", "boxed", "--image", host+"/latency@"+digest); err != nil {
		t.Fatal(err)
	}
	v := w.viewer(t)
	defer v.Close()
	connect(t, v, w.options("boxed", map[string]any{"dataChannels": []string{"echo"}}))
	moves(t, v)
	pressChangesThePicture(t, v)
	pointerMoves(t, v)
	hearsTheTone(t, v)
	channelEchoes(t, v)
	eval[any](t, v, "site.stream.disconnect()")
}
