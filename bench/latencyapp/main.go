// Command latencyapp is the X program that Perigee is measured with: it paints
// a clock that a machine can read (see cells.go for the layout), moves, changes
// colour at every press of a key or button, plays a tone, and echoes a data
// channel. decode.js reads its pictures in a page.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
	"golang.org/x/sync/errgroup"
)

type options struct {
	fps   float64
	tone  bool
	hear  float64
	still bool
	rects bool
	noise bool
	echo  string
	data  string
}

func main() {
	var o options
	flag.Float64Var(&o.fps, "fps", 60, "pictures per second, 1 to 240")
	flag.BoolVar(&o.tone, "tone", false, "play 440 Hz through pacat (package pulseaudio-utils)")
	flag.Float64Var(&o.hear, "hear", 0, "write how loud this frequency in `Hz` is in the default source (package pulseaudio-utils)")
	flag.BoolVar(&o.still, "still", false, "paint one picture and then no more, whatever is pressed")
	flag.BoolVar(&o.rects, "rects", false, "move rectangles over the whole picture")
	flag.BoolVar(&o.noise, "noise", false, "fill the picture with noise that no motion explains: as much as any bitrate carries")
	flag.StringVar(&o.echo, "echo", "", "echo the user data channel of this `name`")
	flag.StringVar(&o.data, "data", "/run/perigee/data", "`folder` of the data channels' sockets")
	flag.Parse()
	if err := check(o); err != nil {
		fmt.Fprintln(os.Stderr, "latencyapp:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "latencyapp:", err)
		os.Exit(1)
	}
}

func check(o options) error {
	switch {
	case flag.NArg() > 0:
		return fmt.Errorf("unknown argument %q: only flags are taken, see -help", flag.Arg(0))
	case !(o.fps >= 1 && o.fps <= 240):
		return fmt.Errorf("-fps must be 1 to 240, got %v", o.fps)
	case o.still && (o.rects || o.noise) || o.rects && o.noise:
		return errors.New("-still, -rects and -noise exclude each other")
	}
	return nil
}

// run works until ctx ends or a part fails.
func run(ctx context.Context, o options) error {
	w, err := openWindow()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer w.c.Close() // ends readEvents
		return show(ctx, w, o)
	})
	if o.tone {
		g.Go(func() error { return playTone(ctx) })
	}
	if o.hear > 0 {
		g.Go(func() error { return hear(ctx, o.hear, os.Stdout) })
	}
	if o.echo != "" {
		g.Go(func() error { return echo(ctx, o.data, o.echo) })
	}
	return g.Wait()
}

// show paints at every tick and at once after every press.
func show(ctx context.Context, w *window, o options) error {
	events := make(chan xgb.Event, 64)
	go readEvents(ctx, w.c, events)
	p := &painter{w: w, rects: o.rects, noise: o.noise}
	s := State{Width: uint16(w.width)}
	paint := func() {
		s.Clock = uint32(time.Now().UnixMilli())
		p.paint(s)
	}
	paint()
	tick := time.NewTicker(time.Duration(float64(time.Second) / o.fps))
	defer tick.Stop()
	if o.still {
		tick.Stop()
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			paint()
		case ev, ok := <-events:
			if !ok {
				return errors.New("the X server closed the connection")
			}
			pressed, err := take(w, p, &s, ev)
			if err != nil {
				return err
			}
			if pressed && !o.still {
				paint()
			}
		}
	}
}

// take follows one event and says whether it was a press.
func take(w *window, p *painter, s *State, ev xgb.Event) (pressed bool, err error) {
	switch e := ev.(type) {
	case xproto.KeyPressEvent:
		s.X, s.Y, s.Kind, s.Detail = uint16(e.EventX), uint16(e.EventY), 1, byte(e.Detail)
		s.Counter++
		return true, nil
	case xproto.ButtonPressEvent:
		s.X, s.Y, s.Kind, s.Detail = uint16(e.EventX), uint16(e.EventY), 2, byte(e.Detail)
		s.Counter++
		return true, nil
	case xproto.MotionNotifyEvent:
		s.X, s.Y = uint16(e.EventX), uint16(e.EventY)
	case xproto.ExposeEvent:
		if e.Count == 0 {
			p.again()
		}
	case xproto.ConfigureNotifyEvent:
		if e.Window != w.screen.Root {
			return false, nil
		}
		if err := w.resize(int(e.Width), int(e.Height)); err != nil {
			return false, err
		}
		s.Width = uint16(w.width)
		p.frame = 0 // the next picture is shown whole
		s.Clock = uint32(time.Now().UnixMilli())
		p.paint(*s)
	}
	return false, nil
}

// readEvents hands on the server's events until the connection closes.
func readEvents(ctx context.Context, c *xgb.Conn, to chan<- xgb.Event) {
	defer close(to)
	for {
		ev, err := c.WaitForEvent()
		if ev == nil && err == nil {
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "latencyapp: X error:", err)
			continue
		}
		select {
		case to <- ev:
		case <-ctx.Done():
			return
		}
	}
}
