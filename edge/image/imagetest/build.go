package imagetest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// File is one of a layer: a regular file, or with Link a symbolic one.
type File struct {
	Body []byte
	Mode int64 // 0 = 0644
	UID  int
	Link string
}

// Layer makes a layer of files by their paths; one that ends with "/" is a folder.
func Layer(files map[string]File) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, p := range slices.Sorted(maps.Keys(files)) {
		f := files[p]
		h := &tar.Header{Name: strings.TrimPrefix(p, "/"), Mode: f.Mode, Uid: f.UID, Gid: f.UID, Size: int64(len(f.Body)), Typeflag: tar.TypeReg}
		switch {
		case strings.HasSuffix(p, "/"):
			h.Typeflag = tar.TypeDir
			if h.Mode == 0 {
				h.Mode = 0o755
			}
		case f.Link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		err := w.WriteHeader(h)
		if err == nil {
			_, err = w.Write(f.Body)
		}
		if err != nil {
			return nil, fmt.Errorf("make layer: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("make layer: %w", err)
	}
	return static.NewLayer(b.Bytes(), types.OCIUncompressedLayer), nil
}

// Programs gives files of this machine for a layer, by the path they shall have
// there, with the libraries that they are linked to.
func Programs(at map[string]string) (map[string]File, error) {
	out := map[string]File{}
	add := func(host, to string) error {
		b, err := os.ReadFile(host)
		if err != nil {
			return fmt.Errorf("read program: %w", err)
		}
		out[to] = File{Body: b, Mode: 0o755}
		return nil
	}
	for to, host := range at {
		host, err := filepath.EvalSymlinks(host)
		if err != nil {
			return nil, fmt.Errorf("find program: %w", err)
		}
		if err := add(host, to); err != nil {
			return nil, err
		}
		libs, _ := exec.Command("ldd", host).Output() // a static one has none
		for word := range strings.FieldsSeq(string(libs)) {
			if path.IsAbs(word) && out[word].Body == nil {
				if err := add(word, word); err != nil {
					return nil, err
				}
			}
		}
	}
	return out, nil
}

// Image makes an image of layers, the lowest first, for this machine.
func Image(run v1.Config, layers ...v1.Layer) (v1.Image, error) {
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layers...)
	if err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Config = "linux", runtime.GOARCH, run
	img, err = mutate.ConfigFile(img, cfg)
	return img, errors.Join(err)
}
