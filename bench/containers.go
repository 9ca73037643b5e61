package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/perigee-cloud/perigee/cmd/run/site"
	"github.com/perigee-cloud/perigee/edge/image/imagetest"
)

const containerTarget = 1000 // ms, of the issue

// containerStart measures a container's cold start with its image on the node:
// from the request to the first picture on its screen.
func containerStart(ctx context.Context, runs int) (_ []Result, err error) {
	d, err := imagetest.Start(ctx, "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	y, err := newYard(ctx, "--containerd", d.Socket)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, y.close()) }()
	host, stop := imagetest.Serve(nil)
	defer stop()
	bin, err := site.Bin()
	if err != nil {
		return nil, err
	}
	programs, err := imagetest.Programs(map[string]string{"/latencyapp": filepath.Join(bin, "latencyapp")})
	if err != nil {
		return nil, err
	}
	layer, err := imagetest.Layer(programs)
	if err != nil {
		return nil, err
	}
	img, err := imagetest.Image(v1.Config{Entrypoint: []string{"/latencyapp"}}, layer)
	if err != nil {
		return nil, err
	}
	digest, err := imagetest.Push(ctx, host+"/paints:1", img)
	if err != nil {
		return nil, err
	}
	if _, err := y.CLI(ctx, "app", "put", "contained", "--image", fmt.Sprintf("%s/paints@%s", host, digest)); err != nil {
		return nil, err
	}
	if _, err := y.starts(ctx, "contained", 1); err != nil { // fetches it
		return nil, err
	}
	ms, err := y.starts(ctx, "contained", max(runs, 3)*5)
	if err != nil {
		return nil, err
	}
	warm, err := y.warmStarts(ctx, "contained", max(runs, 3)*5)
	if err != nil {
		return nil, err
	}
	return []Result{
		Result{Name: "start_ms_container_warm", Value: round(median(warm)), Unit: "ms", Runs: len(warm)}.atMost(warmTarget),
		{Name: "start_ms_container_warm_p95", Value: round(quantile(warm, 0.95)), Unit: "ms", Runs: len(warm)},
		Result{Name: "start_ms_container_cold", Value: round(median(ms)), Unit: "ms", Runs: len(ms)}.atMost(containerTarget),
		{Name: "start_ms_container_cold_p95", Value: round(quantile(ms, 0.95)), Unit: "ms", Runs: len(ms)},
	}, nil
}
