package edge

import (
	"context"
	"errors"

	"github.com/perigee-cloud/perigee/api"
)

// EndSessions ends what an earlier daemon left, for one that is told to end
// everything before it could serve: sessions and relay. What became of the
// sessions the next daemon tells. Of the configuration it needs Identity, Run,
// Start and Log.
func EndSessions(cfg Config) error {
	cfg.Bus = silence{}
	a, err := New(cfg)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(context.Background())
	end(ErrEndSessions)
	return a.Run(ctx)
}

// silence is the bus of a daemon that reaches nobody.
type silence struct{}

var errSilence = errors.New("the daemon has not joined")

func (silence) OnCommand(func(context.Context, api.Command) api.Ack) error { return nil }
func (silence) OnSignal(func(api.Signal)) error                            { return nil }
func (silence) SendSignal(api.Signal) error                                { return errSilence }
func (silence) Report(context.Context, api.Report) (api.Ack, error)        { return api.Ack{}, errSilence }
func (silence) Heartbeat(context.Context, api.Heartbeat) (api.HeartbeatAnswer, error) {
	return api.HeartbeatAnswer{}, errSilence
}
