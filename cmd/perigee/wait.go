package main

import (
	"context"
	"fmt"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
)

const (
	// askEvery keeps the place in the queue and shows it.
	askEvery = time.Second
	// leaveTimeout bounds leaving the queue after an interrupt.
	leaveTimeout = 5 * time.Second
)

// waitForRoom shows a session's place in the queue until it has a node. An
// interrupt leaves the queue.
func waitForRoom(cmd *cobra.Command, c *client.Client, a *api.CreateAnswer) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	told := ""
	for a.Perigee.Queue != nil {
		if text := queueText(a.Perigee.Queue); text != told {
			told = text
			if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "session %s waits: %s\n", a.ID, text); err != nil {
				return fmt.Errorf("tell the place in the queue: %w", err)
			}
		}
		select {
		case <-ctx.Done():
			leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
			defer cancel()
			if err := c.DeleteSession(leave, a.ID, client.End{}); err != nil {
				return fmt.Errorf("leave the queue: %w", err)
			}
			return fmt.Errorf("interrupted: session %s has left the queue", a.ID)
		case <-time.After(askEvery):
		}
		v, err := c.Session(ctx, a.ID)
		switch {
		case ctx.Err() != nil || api.CodeOf(err) == api.CodeUnavailable || api.CodeOf(err) == api.CodeTimeout:
			continue
		case err != nil:
			return err
		case v.Status == api.StatusError || v.Status == api.StatusTerminated || v.Status == api.StatusTerminating:
			return api.Errorf(api.CodeNoCapacity, "the session is over: %s", v.StatusMessage)
		}
		a.Status, a.Region, a.Perigee = v.Status, v.Region, v.Perigee
	}
	return nil
}

// queueText says where a waiting session stands; "" when it does not wait.
func queueText(q *api.QueuePlace) string {
	if q == nil {
		return ""
	}
	text := fmt.Sprintf("place %d of %d", q.Position, q.Length)
	if q.EtaS > 0 {
		text += fmt.Sprintf(", about %s", time.Duration(q.EtaS)*time.Second)
	}
	return text + ", at most until " + when(q.Until)
}

// nearest says which of the nodes a session got, the nearest being the first,
// and what that costs.
func nearest(p api.SessionDetail) string {
	switch {
	case p.Rank == 0:
		return ""
	case p.ExtraMS > 0:
		return fmt.Sprintf("%d, %.1f ms more than the best", p.Rank, p.ExtraMS)
	default:
		return strconv.Itoa(p.Rank)
	}
}
