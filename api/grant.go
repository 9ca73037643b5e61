package api

import "time"

// Right is one thing a token may do.
type Right string

// Rights of a token. An account token has sessions and on_behalf; a page token
// create and join only.
const (
	RightAdmin    Right = "admin"     // accounts, applications, nodes
	RightSessions Right = "sessions"  // the whole session API
	RightCreate   Right = "create"    // create a session
	RightJoin     Right = "join"      // join a session that the same token created
	RightOnBehalf Right = "on_behalf" // say where the user is: client_address, location
	RightNode     Right = "node"      // let one edge join
)

// Grant is what a token allows.
type Grant struct {
	Account string    `json:"account"`
	TokenID string    `json:"token_id"` // hash of the token; "" for the local socket
	Rights  []Right   `json:"rights"`
	App     string    `json:"app,omitempty"` // restricts to one application
	Expires time.Time `json:"expires,omitzero"`
	// Uses left; negative = not counted.
	Uses int `json:"uses"`
}

// Can says whether the grant holds a right; admin holds all, sessions holds
// create and join.
func (g Grant) Can(r Right) bool {
	for _, have := range g.Rights {
		if have == r || have == RightAdmin || have == RightSessions && (r == RightCreate || r == RightJoin) {
			return true
		}
	}
	return false
}

// TokenSpec asks for a token of an account.
type TokenSpec struct {
	Account string        `json:"account"`
	Rights  []Right       `json:"rights"`
	App     string        `json:"app,omitempty"`
	Uses    int           `json:"uses"` // 0 = not counted
	TTL     time.Duration `json:"ttl"`  // 0 = 1 year
}

// Account is a holder of tokens.
type Account struct {
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"`
	Tokens    []Grant   `json:"tokens"`
	// Policy says where its sessions may run, beside their applications'; nil =
	// nothing.
	Policy *AccountPolicy `json:"policy,omitempty"`
}

// ClusterStatus is the health of the schedulers.
type ClusterStatus struct {
	Healthy  bool   `json:"healthy"`
	Nodes    int    `json:"nodes"`    // edges alive
	Replicas int    `json:"replicas"` // schedulers
	Leader   string `json:"leader"`
	Sessions int    `json:"sessions"` // live ones
}
