package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"image"
	"image/color"
	"image/jpeg"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// page gives an empty page with decode.js in it.
func page(t *testing.T) context.Context {
	t.Helper()
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.UserDataDir(t.TempDir()), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // waits for the process; one that is gone already is as good
		cancel()
		stop()
	})
	script, err := os.ReadFile("decode.js")
	if err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank"), chromedp.Evaluate[chromedp.Void](string(script))); err != nil {
		t.Fatalf("start Chromium (package chromium): %v", err)
	}
	return ctx
}

func evaluate[T any](t *testing.T, ctx context.Context, expr string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expr, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatalf("evaluate %.120s: %v", expr, err)
	}
	return v
}

// TestPageReadsWhatTheProgramPaints compares the two readers on lossy pictures.
func TestPageReadsWhatTheProgramPaints(t *testing.T) {
	ctx := page(t)
	for _, want := range []State{
		{Clock: 4_000_000_123, Counter: 65535, X: 1279, Y: 719, Kind: 2, Detail: 3, Width: 1280},
		{Clock: 1, Width: 320},
		{Clock: 0xaaaa5555, Counter: 0x0f0f, X: 5, Y: 6, Kind: 1, Detail: 38, Width: 3840},
	} {
		width := int(want.Width)
		img := image.NewGray(image.Rect(0, 0, width, rows*cellSide(width)+10))
		grey := draw(want, width)
		for y := range rows * cellSide(width) {
			for x := range columns * cellSide(width) {
				img.SetGray(x, y, color.Gray{Y: uint8(grey(x, y))})
			}
		}
		var b bytes.Buffer
		if err := jpeg.Encode(&b, img, &jpeg.Options{Quality: 10}); err != nil {
			t.Fatal(err)
		}
		got := evaluate[map[string]int](t, ctx, `(async () => {
			const img = new Image();
			img.src = "data:image/jpeg;base64,`+base64.StdEncoding.EncodeToString(b.Bytes())+`";
			await img.decode();
			const c = new OffscreenCanvas(img.width, img.height).getContext("2d");
			c.drawImage(img, 0, 0);
			return latency.decode(c.getImageData(0, 0, img.width, img.height).data, img.width);
		})()`)
		if got == nil {
			t.Errorf("the page cannot read %+v", want)
			continue
		}
		read := State{
			Clock: uint32(got["clock"]), Counter: uint16(got["counter"]), X: uint16(got["x"]), Y: uint16(got["y"]),
			Kind: byte(got["kind"]), Detail: byte(got["detail"]), Width: uint16(got["width"]),
		}
		if read != want {
			t.Errorf("the page read %+v, want %+v", read, want)
		}
	}
	if blank := evaluate[any](t, ctx, `latency.decode(new Uint8ClampedArray(4 * 640 * 200), 640)`); blank != nil {
		t.Errorf("black was read as %v", blank)
	}
}

// studio is a page that is its own application: it paints the cells with a
// given delay and plays them to itself as a video.
const studio = `(async (delay) => {
	const side = 24, columns = 18, rows = 8;
	const canvas = document.createElement("canvas");
	canvas.width = 640; canvas.height = 360;
	const c = canvas.getContext("2d");
	let counter = 0;
	const box = document.createElement("div");
	box.tabIndex = 0;
	document.body.append(box);
	box.addEventListener("keydown", () => setTimeout(() => counter++, delay));
	const crc = (words) => words.flatMap((w) => [w >> 8, w & 255]).reduce((v, b) => {
		v ^= b;
		for (let i = 0; i < 8; i++) v = v & 128 ? (v << 1 ^ 7) & 255 : v << 1 & 255;
		return v;
	}, 0);
	const paint = () => {
		const at = (Date.now() - delay) % 2 ** 32;
		const words = [Math.floor(at / 65536), at % 65536, counter, 0, 0, 0, 640];
		words.push(crc(words) * 256 + (crc(words) ^ 255));
		words.forEach((w, r) => {
			for (let k = 0; k < columns; k++) {
				const on = k === 0 ? r % 2 === 0 : k === columns - 1 ? r % 2 === 1 : w & 1 << 16 - k;
				c.fillStyle = on ? "#fff" : "#000";
				c.fillRect(k * side, r * side, side, side);
			}
		});
		requestAnimationFrame(paint);
	};
	paint();
	const video = document.createElement("video");
	video.muted = true;
	video.srcObject = canvas.captureStream(60);
	document.body.append(video);
	await video.play();
	window.studio = { video, surface: box };
	latency.startMeasure(video);
	const input = await latency.measureInput(5, { video, surface: box, gap: 20 });
	const frames = latency.stopMeasure();
	return { input, frames, median: latency.percentile(frames.map((f) => f.latency), 50) };
})(%DELAY%)`

type measured struct {
	Input struct {
		Samples []float64
		Parts   []struct{ Present, Display *float64 }
		Lost    int
	}
	Frames []struct {
		Latency float64
		Counter int
	}
	Median float64
}

func TestMeasuringSeesADelay(t *testing.T) {
	ctx := page(t)
	var results []measured
	for _, delay := range []string{"0", "150"} {
		raw := evaluate[[]byte](t, ctx, string(bytes.ReplaceAll([]byte(studio), []byte("%DELAY%"), []byte(delay))))
		var m measured
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		if len(m.Input.Samples) != 5 || m.Input.Lost != 0 {
			t.Fatalf("delay %s: %d samples, %d lost; want 5, 0", delay, len(m.Input.Samples), m.Input.Lost)
		}
		if len(m.Input.Parts) != len(m.Input.Samples) || m.Input.Parts[0].Display == nil {
			t.Fatalf("delay %s: parts %v of %d samples", delay, m.Input.Parts, len(m.Input.Samples))
		}
		if len(m.Frames) < 10 || m.Frames[len(m.Frames)-1].Counter != 5 {
			t.Fatalf("delay %s: %d frames", delay, len(m.Frames))
		}
		results = append(results, m)
	}
	// The machine adds what it likes to both; the difference is ours.
	if d := results[1].Median - results[0].Median; d < 100 || d > 200 {
		t.Errorf("150 ms more behind show as %.0f ms", d)
	}
	for i, v := range results[1].Input.Samples {
		if v < 150 {
			t.Errorf("input sample %d is %.0f ms, under the delay of 150", i, v)
		}
	}
}

// TestShownAtTheDisplaysStep settles pictures on a display that steps each
// 16 ms. The first was replaced before it was shown, the second was shown though
// no callback told of it, and the browser's own word is a step too late for the
// first and one too early for the third. Of the last it is not known yet whether
// another replaced it.
func TestShownAtTheDisplaysStep(t *testing.T) {
	ctx := page(t)
	got := evaluate[[]map[string]float64](t, ctx, `(() => {
		const seen = [];
		const m = {
			list: [], last: -1, base: 0, steps: { interval: 16 }, waiters: [(p) => seen.push(p.state.counter)],
			pictures: [[0, 2], [5000, 15], [14000, 18], [30000, 35]].map(([at, came], i) => ({ at, came, state: { clock: i + 1, counter: i + 1 } })),
			metas: [
				{ mediaTime: 0, presentationTime: 3, expectedDisplayTime: 32, receiveTime: 1 },
				{ mediaTime: 0.014, presentationTime: 17, expectedDisplayTime: 16, receiveTime: 16 },
				{ mediaTime: 0.030, presentationTime: 35, expectedDisplayTime: 48, receiveTime: 34 },
				{ mediaTime: 0.050, presentationTime: 55, expectedDisplayTime: 48, receiveTime: 54 }, // not read yet
			],
		};
		latency.settle(m);
		return [...m.list.map((l) => ({ counter: l.counter, shown: l.shown, display: l.display })), { seen: seen.length, left: m.metas.length }];
	})()`)
	want := []map[string]float64{
		{"counter": 2, "shown": 16, "display": 1}, {"counter": 3, "shown": 32, "display": 15}, {"seen": 2, "left": 1},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestMeasuringCountsWhatIsLost(t *testing.T) {
	ctx := page(t)
	got := evaluate[map[string]any](t, ctx, `(async () => {
		const video = document.createElement("video");
		const canvas = document.createElement("canvas");
		const c = canvas.getContext("2d");
		setInterval(() => c.fillRect(0, 0, Math.random() * 99, 9), 16); // a picture, but not ours
		video.muted = true;
		video.srcObject = canvas.captureStream();
		await video.play();
		const box = document.createElement("div");
		return latency.measureInput(2, { video, surface: box, timeout: 100 });
	})()`)
	if got["lost"] != 2.0 || len(got["samples"].([]any)) != 0 {
		t.Errorf("got %v, want two lost and no samples", got)
	}
}

func TestPercentile(t *testing.T) {
	ctx := page(t)
	for expr, want := range map[string]float64{
		"latency.percentile([5,1,4,2,3], 50)": 3, "latency.percentile([1,2], 95)": 2, "latency.percentile([7], 0)": 7,
	} {
		if got := evaluate[float64](t, ctx, expr); got != want {
			t.Errorf("%s = %v, want %v", expr, got, want)
		}
	}
	if !evaluate[bool](t, ctx, "Number.isNaN(latency.percentile([], 50))") {
		t.Error("the percentile of nothing is a number")
	}
}
