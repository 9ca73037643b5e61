package gateway

import (
	"context"
	"crypto/ed25519"
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func (f *fake) shared(x api.Share) api.Shared {
	t := api.Ticket{Session: x.Session, Share: x.Number, Role: x.Seat.Role, Expires: time.Now().Add(time.Hour).Unix()}
	return api.Shared{Share: x, Token: t.Sign(f.key)}
}

func (f *fake) ShareSession(_ context.Context, id api.SessionID, r api.ShareRequest) (api.Shared, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := api.Share{Session: id, Number: uint32(len(f.shares) + 1), Seat: r.Seat, Description: r.Description, CreatedAt: epoch, ExpiresAt: r.Expires}
	f.shares = append(f.shares, x)
	return f.shared(x), nil
}

func (f *fake) at(id string) int {
	return slices.IndexFunc(f.shares, func(x api.Share) bool { return x.ID() == id })
}

func (f *fake) Share(_ context.Context, id string, _ api.Grant) (api.Shared, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.at(id)
	if i < 0 {
		return api.Shared{}, api.Errorf(api.CodeNotFound, "no share")
	}
	return f.shared(f.shares[i]), nil
}

func (f *fake) ListShares(_ context.Context, q api.ShareQuery) ([]api.Share, int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := slices.DeleteFunc(slices.Clone(f.shares), func(x api.Share) bool { return q.Session != "" && x.Session != q.Session })
	return out[:min(len(out), max(q.Limit, 1))], len(out), nil
}

func (f *fake) ChangeShare(_ context.Context, id string, c api.ShareChange) (api.Shared, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.at(id)
	if i < 0 {
		return api.Shared{}, api.Errorf(api.CodeNotFound, "no share")
	}
	if c.Description != nil {
		f.shares[i].Description = *c.Description
	}
	if c.Expires != nil {
		f.shares[i].ExpiresAt = *c.Expires
	}
	return f.shared(f.shares[i]), nil
}

func (f *fake) RevokeShare(_ context.Context, id string, _ api.Grant) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.at(id)
	if i < 0 {
		return api.Errorf(api.CodeNotFound, "no share")
	}
	f.shares = slices.Delete(f.shares, i, i+1)
	return nil
}

func (f *fake) ConnectShare(_ context.Context, id api.SessionID, token string) (api.Admission, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, err := api.ParseTicket(token, f.key.Public().(ed25519.PublicKey), time.Now())
	if err != nil || t.Session != id || t.Share == 0 {
		return api.Admission{}, api.Errorf(api.CodeUnauthorized, "no share's token")
	}
	return api.Admission{Session: *f.sessions[id], Ticket: f.ticket(id, t.Role, 0)}, nil
}
