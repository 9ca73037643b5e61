package site

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/chromedp/chromedp"
)

// Browser is one headless Chromium.
type Browser struct {
	ctx    context.Context
	cancel []context.CancelFunc
}

// NewBrowser starts Debian's Chromium, headless. The flags keep it from
// looking for hosts that a test machine does not reach.
func NewBrowser(ctx context.Context, flags ...chromedp.ExecAllocatorOption) (*Browser, error) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		return nil, fmt.Errorf("find a browser: install the package chromium: %w", err)
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], // headless, no first run, fresh profile
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("autoplay-policy", "no-user-gesture-required"),
		// mDNS candidates would hide loopback addresses that nothing resolves here.
		chromedp.Flag("disable-features", "WebRtcHideLocalIpsWithMdns,Translate,MediaRouter"),
		chromedp.WindowSize(1280, 800),
	)
	alloc, cancelAlloc := chromedp.NewExecAllocator(ctx, append(opts, flags...)...)
	tab, cancelTab := chromedp.NewContext(alloc)
	b := &Browser{ctx: tab, cancel: []context.CancelFunc{cancelTab, cancelAlloc}}
	if err := chromedp.Do(tab, chromedp.Navigate("about:blank")); err != nil {
		b.Close()
		return nil, fmt.Errorf("start browser: %w", err)
	}
	return b, nil
}

// Tab is one page.
type Tab struct {
	ctx    context.Context
	cancel context.CancelFunc
}

// Open opens a new page at a URL.
func (b *Browser) Open(url string) (*Tab, error) {
	ctx, cancel := chromedp.NewContext(b.ctx)
	t := &Tab{ctx: ctx, cancel: cancel}
	// The tab lives as long as the context of its first action: no timeout there.
	err := chromedp.Do(ctx, chromedp.Navigate("about:blank"))
	if err == nil {
		err = t.Do(chromedp.Navigate(url))
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open %s: %w", url, err)
	}
	return t, nil
}

const actionTimeout = 30 * time.Second

// Do runs actions on the page, 30 s at most.
func (t *Tab) Do(actions ...chromedp.Action[chromedp.Void]) error {
	ctx, cancel := context.WithTimeout(t.ctx, actionTimeout)
	defer cancel()
	return chromedp.Do(ctx, actions...)
}

// Close closes the page.
func (t *Tab) Close() { t.cancel() }

// Eval evaluates a JavaScript expression, awaits it when it is a promise, and
// decodes the result; 30 s at most.
func Eval[T any](t *Tab, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(t.ctx, actionTimeout)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		return v, fmt.Errorf("evaluate: %w", err)
	}
	return v, nil
}

// Screenshot gives the page as PNG.
func (t *Tab) Screenshot() ([]byte, error) {
	ctx, cancel := context.WithTimeout(t.ctx, actionTimeout)
	defer cancel()
	return chromedp.Run(ctx, chromedp.CaptureScreenshot())
}

// Close ends the browser.
func (b *Browser) Close() {
	if err := chromedp.Cancel(b.ctx); err != nil && !errors.Is(err, context.Canceled) {
		_ = err // the process is killed by the allocator below
	}
	for _, c := range b.cancel {
		c()
	}
}

// Kill ends the browser without a word, as a crash or a lost network does.
func (b *Browser) Kill() {
	for _, c := range b.cancel[1:] {
		c()
	}
}
