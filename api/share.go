package api

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ViewerRight is one thing that a viewer in control may do beside watching.
type ViewerRight string

// Rights of a viewer.
const (
	MayInput      ViewerRight = "input"      // pointer, touch, keyboard and text
	MayData       ViewerRight = "data"       // data channels to the application
	MayMicrophone ViewerRight = "microphone" // to be heard by the application, where that may hear
)

// ViewerRights lists the rights that are served.
func ViewerRights() []ViewerRight {
	return []ViewerRight{MayData, MayInput, MayMicrophone}
}

// Seat is what a viewer of a session may do.
type Seat struct {
	Role Role `json:"role,omitempty"` // RoleControl or RoleViewer; "" = control
	// Rights of one in control; none = all of them. A viewer has none.
	Rights []ViewerRight `json:"rights,omitempty"`
}

// Normalize checks a seat as a client asks for it and fills the role in.
// Control with an empty list of rights comes to watching.
func (s Seat) Normalize() (Seat, error) {
	const field = "perigee."
	if s.Role == "" {
		s.Role = RoleControl
	}
	if s.Role != RoleControl && s.Role != RoleViewer {
		return s, Invalidf(field+"role", "%q is no role of a viewer; use %s or %s", s.Role, RoleControl, RoleViewer)
	}
	if s.Role == RoleViewer && len(s.Rights) > 0 {
		return s, Invalidf(field+"rights", "a viewer only watches: leave them out, or use the role %s", RoleControl)
	}
	for _, r := range s.Rights {
		if !slices.Contains(ViewerRights(), r) {
			return s, Invalidf(field+"rights", "%q is no right of a viewer; use some of %v", r, ViewerRights())
		}
	}
	if s.Rights != nil && len(s.Rights) == 0 {
		s.Role, s.Rights = RoleViewer, nil
	}
	slices.Sort(s.Rights)
	s.Rights = slices.Compact(s.Rights)
	return s, nil
}

// May says whether the seat holds a right.
func (s Seat) May(r ViewerRight) bool {
	return s.Role != RoleViewer && (len(s.Rights) == 0 || slices.Contains(s.Rights, r))
}

// ShareStream is the type of share that there is: a further viewer of the stream.
const ShareStream = "stream"

// Bounds of shares: a session's own number and lives are the wire contract's.
const (
	MaxShares        = 5
	MaxDescription   = 200 // bytes
	ShareLifeDefault = 12 * time.Hour
	ShareLifeMost    = 30 * 24 * time.Hour
)

// Share lets others take part in a session beside its own client, until it is
// revoked or expires. It is no secret; its link is.
type Share struct {
	Session     SessionID `json:"session"`
	Number      uint32    `json:"number"` // within the session; never given twice
	Seat        Seat      `json:"seat"`
	Description string    `json:"description,omitempty"`
	CreatedAt   time.Time `json:"created_at"`
	ExpiresAt   time.Time `json:"expires_at"`
}

// ID names the share among all of the cluster.
func (s Share) ID() string { return fmt.Sprintf("%s-%d", s.Session, s.Number) }

// ParseShareID finds the session and number of a share's id.
func ParseShareID(id string) (SessionID, uint32, error) {
	i := strings.LastIndexByte(id, '-')
	if i > 0 {
		n, err := strconv.ParseUint(id[i+1:], 10, 32)
		if err == nil && n > 0 && ValidID(id[:i]) {
			return SessionID(id[:i]), uint32(n), nil
		}
	}
	return "", 0, Errorf(CodeNotFound, "share %q does not exist", id)
}

// ShareRequest asks for a share. Expires zero = ShareLifeDefault from now.
type ShareRequest struct {
	Seat        Seat      `json:"seat"`
	Description string    `json:"description,omitempty"`
	Expires     time.Time `json:"expires,omitzero"`
	Grant       Grant     `json:"grant"`
}

// ShareChange changes a share; what is nil stays.
type ShareChange struct {
	Description *string    `json:"description,omitempty"`
	Expires     *time.Time `json:"expires,omitempty"`
	Grant       Grant      `json:"grant"`
}

// ShareQuery selects a page of shares. Limit 0 means all.
type ShareQuery struct {
	Account string    // "" = every account's
	Session SessionID // "" = every session's
	Limit   int
	Offset  int
}

// Shared is a share with the token of its link.
type Shared struct {
	Share Share  `json:"share"`
	Token string `json:"token"`
}

// ShareList is what an edge is told of a session's shares: who came by one that
// is neither open nor newer than Last is cut off.
type ShareList struct {
	Edit uint32   `json:"edit"` // grows with every change
	Last uint32   `json:"last"` // the highest number ever given
	Open []uint32 `json:"open"`
}

// Admits says whether one who comes by the share with this number may stay.
func (l ShareList) Admits(number uint32) bool {
	return number > l.Last || slices.Contains(l.Open, number)
}

// GuestID names a websocket connection of one who came by a share, as
// Signal.Viewer; random tells those of one share apart.
func GuestID(share uint32, random string) string { return fmt.Sprintf("g%d-%s", share, random) }

// ParseGuest reads the share's number from a Signal.Viewer; false for a viewer
// that did not come by a share.
func ParseGuest(viewer string) (uint32, bool) {
	head, _, ok := strings.Cut(viewer, "-")
	number, guest := strings.CutPrefix(head, "g")
	n, err := strconv.ParseUint(number, 10, 32)
	if !ok || !guest || err != nil || n == 0 {
		return 0, false
	}
	return uint32(n), true
}

// ShareBody is the body of POST /1.0/sessions/{id}/share.
type ShareBody struct {
	Type        string `json:"type,omitempty"` // ShareStream
	Description string `json:"description,omitempty"`
	ExpiryAt    int64  `json:"expiry_at,omitempty"` // Unix seconds; wins over
	ExpiryMin   int    `json:"expiry_min,omitempty"`
	Perigee     *Seat  `json:"perigee,omitempty"`
}

// ShareChangeBody is the body of PATCH /1.0/shares/{id}; what is left out stays.
type ShareChangeBody struct {
	Description *string `json:"description,omitempty"`
	ExpiryAt    *int64  `json:"expiry_at,omitempty"` // Unix seconds
}

// ShareView is a share as the API shows it; URL and Link are secrets, and not
// in lists.
type ShareView struct {
	ID          string      `json:"id"`
	SessionID   SessionID   `json:"session_id"`
	Type        string      `json:"type"`
	Description string      `json:"description"`
	CreatedAt   int64       `json:"created_at"` // Unix seconds
	ExpiryAt    int64       `json:"expiry_at"`  // Unix seconds
	ExpiryMin   int         `json:"expiry_min,omitempty"`
	URL         string      `json:"url,omitempty"` // answers like a join, to whoever has it
	Perigee     ShareDetail `json:"perigee"`
}

// ShareDetail is what we add to a share.
type ShareDetail struct {
	Seat
	Link string `json:"link,omitempty"` // the player's page for it
}
