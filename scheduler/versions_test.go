package scheduler

import (
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func TestApplicationVersions(t *testing.T) {
	w := newWorld(t)
	w.app()
	w.edge("a", 10)
	ctx := w.ctx()
	a := api.App{
		Name: "xterm", Command: []string{"xterm", "-new"}, Video: api.Video{Width: 640, Height: 480, FPS: 30, MaxWidth: 800, MaxHeight: 600, MaxFPS: 30},
		Idle: api.IdlePolicy{Minutes: 7}, Resources: api.Resources{Encoder: api.EncoderSoftware},
	}
	staged, err := w.s.StageApplication(ctx, a)
	if err != nil || staged.Version != 2 {
		t.Fatalf("staged as %+v, %v", staged, err)
	}
	if v := w.mustCreate().Session; v.AppVersion != 1 {
		t.Errorf("a session runs version %d before another is published", v.AppVersion)
	}
	open := api.Screen{}
	b := w.mustCreate(func(r *api.CreateRequest) { r.AppVersion, r.Asked = 2, &open }).Session
	if b.AppVersion != 2 || b.Screen != (api.Screen{Width: 640, Height: 480, FPS: 30, Density: 240}) || b.IdleMinutes != 7 || b.Pool != api.PoolCPU {
		t.Errorf("the session of the staged version is %+v", b)
	}
	if _, err := w.create(func(r *api.CreateRequest) { r.AppVersion, r.Screen = 2, api.Screen{Width: 1024, Height: 600} }); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a screen above the application's bound: %v", err)
	}
	if err := w.s.DeleteVersion(ctx, "xterm", 2); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("a version in use was deleted: %v", err)
	}
	if err := w.s.PublishVersion(ctx, "xterm", 2, true); err != nil {
		t.Fatal(err)
	}
	r, err := w.s.Application(ctx, "xterm")
	if err != nil || r.Default != 2 || len(r.Versions) != 2 {
		t.Errorf("the record is %+v, %v", r, err)
	}
	for v := 1; v <= 2; v++ {
		if err := w.s.PublishVersion(ctx, "xterm", v, false); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.create(); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("without a published version: %v", err)
	}
	if _, err := w.s.Application(ctx, "none"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("an unknown application: %v", err)
	}
	// An encoder that no node has.
	gpu := a
	gpu.Resources.Encoder = api.EncoderGPU
	if _, err := w.s.PutApplication(ctx, gpu); err != nil {
		t.Fatal(err)
	}
	if _, err := w.create(func(r *api.CreateRequest) { r.Asked = &open }); api.CodeOf(err) != api.CodeNoCapacity {
		t.Errorf("hardware encoding where there is none: %v", err)
	}
}
