package gateway

import (
	"context"

	"github.com/perigee-cloud/perigee/api"
)

// Sessions is what the gateway needs of the scheduler for the session life.
// Errors are *api.Error with a code.
type Sessions interface {
	// CreateSession places and commits a session; it answers after one commit,
	// without waiting for the edge.
	CreateSession(ctx context.Context, r api.CreateRequest) (api.Admission, error)
	// JoinSession hands a running session to a new client.
	JoinSession(ctx context.Context, id api.SessionID, r api.JoinRequest) (api.Admission, error)
	// EndSession wants a session ended; with wait it answers when it has ended.
	EndSession(ctx context.Context, id api.SessionID, e api.EndRequest) error
	Session(ctx context.Context, id api.SessionID) (api.Session, error)
	// ListSessions gives one page and how many there are in all.
	ListSessions(ctx context.Context, q api.SessionQuery) ([]api.Session, int, error)
	// Placement gives why a session runs where it does; CodeNotFound when that
	// was not kept.
	Placement(ctx context.Context, id api.SessionID) (api.Explanation, error)
	Shares
}

// Shares is what the gateway needs of the scheduler for those who take part in
// a session beside its client.
type Shares interface {
	ShareSession(ctx context.Context, id api.SessionID, r api.ShareRequest) (api.Shared, error)
	// Share finds one of a session that the grant reaches.
	Share(ctx context.Context, id string, g api.Grant) (api.Shared, error)
	// ListShares gives one page, by session and age, and how many there are in all.
	ListShares(ctx context.Context, q api.ShareQuery) ([]api.Share, int, error)
	ChangeShare(ctx context.Context, id string, c api.ShareChange) (api.Shared, error)
	// RevokeShare cuts off who came by it.
	RevokeShare(ctx context.Context, id string, g api.Grant) error
	// ConnectShare admits whoever has a share's token; CodeUnauthorized when it
	// is none, was revoked or has expired.
	ConnectShare(ctx context.Context, id api.SessionID, token string) (api.Admission, error)
}

// Catalog is what the gateway needs of the scheduler for applications.
type Catalog interface {
	// Applications gives the default version of each, the newest where none is published.
	Applications(ctx context.Context) ([]api.App, error)
	// Application gives one with all its versions.
	Application(ctx context.Context, name string) (api.AppRecord, error)
	// StageApplication makes a version that is not published, PutApplication one that is.
	StageApplication(ctx context.Context, a api.App) (api.App, error)
	PublishVersion(ctx context.Context, name string, version int, published bool) error
	// DeleteVersion removes a version that nobody runs; else CodeConflict.
	DeleteVersion(ctx context.Context, name string, version int) error
	PutApplication(ctx context.Context, a api.App) (api.App, error)
	DeleteApplication(ctx context.Context, name string) error
}

// Instances is what the gateway needs of the scheduler for instances.
type Instances interface {
	// LaunchInstance answers after one commit, without waiting for the edge.
	LaunchInstance(ctx context.Context, r api.LaunchRequest) (api.Instance, error)
	// Instance finds one by its id, or a live one by its name; an empty account is any.
	Instance(ctx context.Context, account, name string) (api.Instance, error)
	// ListInstances gives one page, oldest first, and how many there are in all.
	ListInstances(ctx context.Context, q api.InstanceQuery) ([]api.Instance, int, error)
	InstanceLog(ctx context.Context, v api.Session, q api.LogQuery) (api.LogPart, error)
	// ChangeInstance changes tags, protection and the like while it lives.
	ChangeInstance(ctx context.Context, id api.SessionID, c api.InstanceChange) (api.Instance, error)
	// EnterInstance says whether the instance runs and can be entered; a link of
	// RoleEnter may follow.
	EnterInstance(ctx context.Context, v api.Session) error
}

// Accounts is what the gateway needs of the scheduler for tokens.
type Accounts interface {
	// Authenticate gives what a token allows; CodeUnauthorized when it is
	// unknown, expired or revoked.
	Authenticate(ctx context.Context, token string) (api.Grant, error)
	// CreateToken makes a token, and its account where there is none, and shows
	// the secret for the only time.
	CreateToken(ctx context.Context, t api.TokenSpec) (token string, g api.Grant, err error)
	// RevokeToken takes a token's id back; an empty id all tokens of the account.
	RevokeToken(ctx context.Context, account, tokenID string) error
	DeleteAccount(ctx context.Context, name string) error
	ListAccounts(ctx context.Context) ([]api.Account, error)
	// AccountPolicy gives an account's own policy, the zero one when it has none.
	AccountPolicy(ctx context.Context, name string) (api.AccountPolicy, error)
	// SetAccountPolicy sets it; nil takes it away.
	SetAccountPolicy(ctx context.Context, name string, p *api.AccountPolicy) error
}

// Nodes is what the gateway needs of the scheduler for edges.
type Nodes interface {
	JoinNode(ctx context.Context, j api.NodeJoin, remote string) (api.NodeJoined, error)
	ListNodes(ctx context.Context) ([]api.NodeView, error)
	SetDrain(ctx context.Context, id api.NodeID, drain bool) error
	RemoveNode(ctx context.Context, id api.NodeID) error
	Demand(ctx context.Context) ([]api.DemandCell, error)
	// Refusals gives the latest requests that were turned away, the newest first.
	Refusals(ctx context.Context, limit int) ([]api.Explanation, error)
}

// Cluster is what the gateway needs to say how the schedulers are.
type Cluster interface {
	Status(ctx context.Context) (api.ClusterStatus, error)
	Regions(ctx context.Context) ([]string, error)
	// CheckTicket checks a websocket's ticket and finds the session's node.
	CheckTicket(ctx context.Context, ticket string) (api.Ticket, api.Session, error)
	// Relays lists the STUN and TURN servers of a session's node.
	Relays(s api.Session) []api.ICEServer
}

// Signals carries signalling frames between a websocket and a session's stream
// process, in order, re-sent until acknowledged.
type Signals interface {
	OpenSignal(ctx context.Context, s api.Session, t api.Ticket) (SignalLink, error)
}

// SignalLink is one viewer's way to the stream process.
type SignalLink interface {
	// Send queues one frame; an error means that the link is broken or full.
	Send(frame []byte) error
	// Receive waits for the next frame; api.ErrSignalClosed when the stream ended
	// it, with the reason as text.
	Receive(ctx context.Context) ([]byte, error)
	Close() error
}

// Locator finds where an address is; the zero Location when unknown.
type Locator interface {
	Locate(address string) api.Location
}
