package encode

// #include "job.h"
import "C"

import (
	"errors"
	"fmt"
	"image"
	"runtime"
	"unsafe"

	"github.com/asticode/go-astiav"

	"github.com/perigee-cloud/perigee/api"
)

// Packet is one encoded picture.
type Packet struct {
	Data []byte
	Key  bool // decodes without earlier ones
}

// recipe is what tells one codec from another.
type recipe struct {
	name    string // FFmpeg's name of the encoder
	options func(Config) map[string]string
	// faster are the options of api.PresetFast that differ (empty: opened sees to
	// it); nil: there is nothing faster than what is used anyway.
	faster map[string]string
	// opened sets what FFmpeg has no option for; nil: nothing.
	opened func(*astiav.CodecContext, Config)
	// favour applies a changed Config.Content to an open encoder; nil: nothing to do.
	favour func(*Video)
	// rate changes the bitrate of an open encoder; errReopen if it cannot.
	rate func(*astiav.CodecContext, Config) error
	// hints tell the encoder which parts of the picture about to be encoded
	// changed (int (*)(struct perigee_job *), two at most).
	hints []unsafe.Pointer
	// sharp is the quantiser up to which a picture counts as near-lossless; 0 = its
	// size alone tells.
	sharp int
	// hardware is nil for an encoder of the processors.
	hardware *hardware
}

// errReopen says that a change needs a new encoder, which starts with a key.
var errReopen = errors.New("encoder must be opened again")

func recipes(c Config) (recipe, bool) {
	if c.Pool != "" && c.Pool != api.PoolCPU {
		return hardwareRecipe(c)
	}
	switch c.Codec {
	case api.H264:
		return h264()
	case api.VP8:
		return vp8(), true
	case api.VP9:
		return vp9(), true
	case api.AV1:
		return av1(), true
	}
	return recipe{}, false
}

// Video is one open encoder with the picture it encodes. It is for one
// goroutine; Close frees it.
type Video struct {
	cfg    Config
	recipe recipe
	ctx    *astiav.CodecContext
	frame  *astiav.Frame
	blocks blocks
	worker *worker
	job    *C.struct_perigee_job
	pin    runtime.Pinner
	loaded bool          // frame holds a picture
	count  int64         // pictures encoded: the encoder's clock
	coarse int           // pictures to come until it is sharp
	device *astiav.Frame // the picture in a device's memory
	free   func()        // what prepare allocated
}

// NewVideo opens an encoder.
func NewVideo(cfg Config) (*Video, error) {
	cfg.Threads = max(cfg.Threads, 1)
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	r, _ := recipes(cfg)
	astiav.SetLogLevel(astiav.LogLevelQuiet)
	v := &Video{cfg: cfg, recipe: r, frame: astiav.AllocFrame(),
		blocks: newBlocks(cfg.Width, cfg.Height)}
	v.frame.SetWidth(cfg.Width)
	v.frame.SetHeight(cfg.Height)
	v.frame.SetPixelFormat(r.pixels())
	v.frame.SetColorRange(astiav.ColorRangeMpeg)
	v.frame.SetColorSpace(astiav.ColorSpaceSmpte170M)
	// 64: the widest vectors that libyuv and the encoders load.
	if err := v.frame.AllocBuffer(64); err != nil {
		v.Close()
		return nil, fmt.Errorf("allocate picture: %w", err)
	}
	if err := v.begin(); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

func (v *Video) begin() (err error) {
	if err := v.newJob(); err != nil {
		return err
	}
	if v.worker, err = newWorker(); err != nil {
		return err
	}
	return v.open()
}

func (v *Video) open() error {
	codec := astiav.FindEncoderByName(v.recipe.name)
	if codec == nil {
		return fmt.Errorf("FFmpeg has no encoder %s: %w", v.recipe.name, ErrConfig)
	}
	cc := astiav.AllocCodecContext(codec)
	if cc == nil {
		return errors.New("allocate encoder: out of memory")
	}
	cc.SetWidth(v.cfg.Width)
	cc.SetHeight(v.cfg.Height)
	cc.SetPixelFormat(v.recipe.pixels())
	// The encoder's clock counts pictures. Those of a screen come when drawn,
	// but spreading the bitrate over a steady count bounds each one's size, and
	// with it its time on the wire.
	cc.SetTimeBase(astiav.NewRational(1, v.cfg.FPS))
	cc.SetFramerate(astiav.NewRational(v.cfg.FPS, 1))
	// libyuv's ARGBToI420 is BT.601, studio range.
	cc.SetColorRange(astiav.ColorRangeMpeg)
	cc.SetColorSpace(astiav.ColorSpaceSmpte170M)
	cc.SetColorPrimaries(astiav.ColorPrimariesBt709)
	cc.SetColorTransferCharacteristic(astiav.ColorTransferCharacteristicBt709)
	d := astiav.NewDictionary()
	defer d.Free()
	for key, value := range v.recipe.settings(v.cfg) {
		if err := d.Set(key, value, 0); err != nil {
			cc.Free()
			return fmt.Errorf("set %s of %s: %w", key, v.recipe.name, err)
		}
	}
	free, err := v.recipe.prepare(v.cfg, cc)
	if err != nil {
		cc.Free()
		return fmt.Errorf("open encoder %s: %w", v.recipe.name, err)
	}
	if err := cc.Open(codec, d); err != nil {
		cc.Free()
		free()
		return fmt.Errorf("open encoder %s: %w", v.recipe.name, err)
	}
	// What FFmpeg took is gone from the dictionary; what is left has no effect.
	if e := d.Get("", nil, astiav.NewDictionaryFlags(astiav.DictionaryFlagIgnoreSuffix)); e != nil {
		cc.Free()
		free()
		return fmt.Errorf("encoder %s knows no option %s: %w", v.recipe.name, e.Key(), ErrConfig)
	}
	if v.recipe.opened != nil {
		v.recipe.opened(cc, v.cfg)
	}
	if v.ctx != nil {
		v.ctx.Free()
		v.free()
	}
	v.ctx, v.free, v.count = cc, free, 0
	v.job.cc, v.job.vpx = (*C.AVCodecContext)(cc.UnsafePointer()), vpxContext(cc)
	if v.recipe.favour != nil {
		v.recipe.favour(v)
	}
	return nil
}

// Name is FFmpeg's name of the encoder.
func (v *Video) Name() string { return v.recipe.name }

// Load converts the parts of a picture (rows of blue, green, red, unused; stride
// bytes apart) that may have changed into the encoder's own; the rest stays.
// Parts are taken to whole macroblocks: pix must hold the whole picture. Those
// that were only painted again as they are count as unchanged; see Changed.
func (v *Video) Load(pix []byte, stride int, changed ...image.Rectangle) error {
	if stride < v.cfg.Width*4 || len(pix) < (v.cfg.Height-1)*stride+v.cfg.Width*4 {
		return fmt.Errorf("picture of %d bytes, %d a row, is too small for %dx%d", len(pix), stride, v.cfg.Width, v.cfg.Height)
	}
	v.blocks.touch(changed)
	if v.blocks.touches == 0 {
		return nil
	}
	if h := v.recipe.hardware; h != nil {
		if err := h.take(v, pix, stride); err != nil {
			return err
		}
	} else if err := v.convert(pix, stride, !v.loaded); err != nil {
		return err
	}
	v.loaded = true
	return nil
}

// Planes copies the loaded picture of an encoder of the processors: packed I420.
func (v *Video) Planes() ([]byte, error) {
	b, err := v.frame.Data().Bytes(1)
	if err != nil {
		return nil, fmt.Errorf("copy picture: %w", err)
	}
	return b, nil
}

// Changed tells whether the loaded picture differs from the one encoded last.
func (v *Video) Changed() bool { return v.blocks.fresh > 0 }

// Encode encodes the loaded picture, as a key if wanted, and returns its packet.
func (v *Video) Encode(key bool) (Packet, error) {
	kind := astiav.PictureTypeNone
	if key || v.count == 0 {
		kind = astiav.PictureTypeI
	}
	v.frame.SetPictureType(kind)
	v.frame.SetPts(v.count)
	frame := v.frame
	if h := v.recipe.hardware; h != nil && h.upload != nil {
		var err error
		if frame, err = h.upload(v); err != nil {
			return Packet{}, err
		}
	}
	p, err := v.send(frame)
	if err != nil {
		return Packet{}, fmt.Errorf("encode with %s: %w", v.recipe.name, err)
	}
	v.count++
	v.blocks.encoded()
	return p, nil
}

// sharpPictures in a row make a picture sharp: in one alone, the parts that came
// last may have been held down by what the first took.
const sharpPictures = 2

// weigh notes how finely the picture just encoded came out: bytes, and by which
// quantiser (negative = not known).
func (v *Video) weigh(bytes, quantiser int) {
	share := v.cfg.BitrateKbps * 1000 / v.cfg.FPS
	held := bytes*8 > share
	if v.recipe.sharp > 0 && quantiser >= 0 {
		held = held || quantiser > v.recipe.sharp
	} else {
		held = bytes*8*4 > share // it took a good part of it
	}
	if held {
		v.coarse = sharpPictures
	} else if v.coarse > 0 {
		v.coarse--
	}
}

// Sharp tells whether the picture as encoded is near-lossless, 45 dB or more of
// PSNR (an error of 1.4 in 255 steps, root mean square: 255/10^(45/20)). While it
// is not, encoding the same again makes it sharper. Encoders that do not tell
// their quantiser (SVT-AV1, VA-API) count as sharp when a picture takes little.
func (v *Video) Sharp() bool { return v.coarse == 0 }

// SetBitrate changes the bitrate from the next picture on, in kb/s. An encoder
// that cannot do so while open is opened again: its next picture is a key.
func (v *Video) SetBitrate(kbps int) error {
	next := v.cfg
	next.BitrateKbps = kbps
	if err := next.Check(); err != nil {
		return err
	}
	if kbps == v.cfg.BitrateKbps {
		return nil
	}
	err := v.recipe.rate(v.ctx, next)
	if err == nil || errors.Is(err, errReopen) {
		v.cfg = next
	}
	if errors.Is(err, errReopen) {
		return v.open()
	}
	return err
}

// Live tells whether SetBitrate works without a keyframe.
func (v *Video) Live() bool {
	switch v.cfg.Pool {
	case api.PoolNVENC:
		return true
	case api.PoolVAAPI:
		return false
	}
	return v.cfg.Codec != api.AV1
}

// Close frees the encoder.
func (v *Video) Close() {
	if v.worker != nil {
		v.worker.close()
		v.worker = nil
	}
	if v.ctx != nil {
		v.ctx.Free()
		v.free()
		v.ctx = nil
	}
	if v.device != nil {
		v.device.Free()
	}
	v.frame.Free()
	v.freeJob()
}
