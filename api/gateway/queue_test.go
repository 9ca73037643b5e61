package gateway

import (
	"context"
	"errors"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func TestQueue(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	q := newQueue()
	got := make(chan string, 1)
	go func() {
		b, _ := q.pop(ctx)
		got <- string(b)
	}()
	if err := q.push([]byte("a")); err != nil {
		t.Fatal(err)
	}
	if s := wait(t, "frame", got); s != "a" {
		t.Errorf("got %q", s)
	}

	for range maxQueue {
		if err := q.push([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.push([]byte("y")); !errors.Is(err, errQueueFull) {
		t.Errorf("over the number of frames: %v", err)
	}
	q.clear()
	if err := q.push(make([]byte, maxQueueBytes)); err != nil {
		t.Errorf("as many bytes as fit: %v", err)
	}
	if err := q.push([]byte("y")); !errors.Is(err, errQueueFull) {
		t.Errorf("over the number of bytes: %v", err)
	}
	q.close(api.ErrSignalClosed)
	q.close(errQueueClosed) // the first reason stands
	if b, err := q.pop(ctx); err != nil || len(b) != maxQueueBytes {
		t.Errorf("a frame from before the close: %d bytes, %v", len(b), err)
	}
	if _, err := q.pop(ctx); !errors.Is(err, api.ErrSignalClosed) {
		t.Errorf("after the close: %v", err)
	}
	if err := q.push([]byte("z")); !errors.Is(err, api.ErrSignalClosed) {
		t.Errorf("push after the close: %v", err)
	}
	cancel()
	if _, err := newQueue().pop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestHubKeepsFramesForTheOtherSide(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := newHub()
	slave, err := h.attach("s", api.RoleControl)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"1", "2"} {
		if err := slave.Send([]byte(f)); err != nil {
			t.Fatal(err)
		}
	}
	master, err := h.attach("s", api.RoleMaster)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1", "2"} {
		if b, err := master.Receive(ctx); err != nil || string(b) != want {
			t.Errorf("got %q, %v", b, err)
		}
	}
	for range maxQueue {
		if err := master.Send([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := master.Send([]byte("x")); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("over the bound: %v", err)
	}
	if err := errors.Join(master.Close(), master.Close(), slave.Close(), slave.Close()); err != nil {
		t.Error(err)
	}
	if len(h.rooms) != 0 {
		t.Errorf("%d rooms are left", len(h.rooms))
	}
	// The next meeting starts empty.
	slave, err = h.attach("s", api.RoleControl)
	if err != nil {
		t.Fatal(err)
	}
	short, stop := context.WithCancel(ctx)
	stop()
	if b, err := slave.Receive(short); err == nil {
		t.Errorf("a new client was given %q", b)
	}
}
