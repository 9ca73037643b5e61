package gateway

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

const (
	// maxStale is how old a plain read's answer may be; ?stale takes any age.
	maxStale      = 5 * time.Second
	stalenessHead = "Perigee-Staleness-Ms"
	maxSnapshot   = 1 << 30
)

// Replicas is what the gateway needs of a scheduler with other ones beside it.
type Replicas interface {
	Replicas(ctx context.Context) ([]api.ReplicaView, error)
	AddReplica(ctx context.Context, j api.ReplicaJoin) error
	RemoveReplica(ctx context.Context, id string) error
	// TransferLeadership hands the leadership to a replica; "" to any.
	TransferLeadership(ctx context.Context, to string) error
	SaveSnapshot(ctx context.Context, w io.Writer) error
	RestoreSnapshot(ctx context.Context, from io.Reader) error
	// Consistent waits until this replica shows what was acknowledged before.
	Consistent(ctx context.Context) error
	// Staleness is how old this replica's state may be.
	Staleness() time.Duration
}

// fresh brings the state that a read is answered from to the age that the
// client accepts, and says that age.
func (s *Server) fresh(c *gin.Context) error {
	r := s.cfg.Replicas
	if r == nil || c.Request.Method != http.MethodGet {
		return nil
	}
	q := c.Request.URL.Query()
	age := r.Staleness()
	if q.Has("consistent") || age > maxStale && !q.Has("stale") {
		if err := r.Consistent(c.Request.Context()); err != nil {
			return err
		}
		age = 0
	}
	c.Header(stalenessHead, strconv.FormatInt(age.Milliseconds(), 10))
	return nil
}

func (s *Server) replicas() (Replicas, error) {
	if s.cfg.Replicas == nil {
		return nil, api.Errorf(api.CodeNotFound, "this gateway knows of no replicas")
	}
	return s.cfg.Replicas, nil
}

func (s *Server) listReplicas(c *gin.Context) (reply, error) {
	r, err := s.replicas()
	if err != nil {
		return reply{}, err
	}
	list, err := r.Replicas(c.Request.Context())
	if err != nil {
		return reply{}, err
	}
	n := len(list)
	return reply{metadata: list, total: &n}, nil
}

func (s *Server) addReplica(c *gin.Context) (reply, error) {
	var j api.ReplicaJoin
	if err := readBody(c, &j, false); err != nil {
		return reply{}, err
	}
	r, err := s.replicas()
	if err != nil {
		return reply{}, err
	}
	return reply{}, r.AddReplica(c.Request.Context(), j)
}

func (s *Server) removeReplica(c *gin.Context) (reply, error) {
	r, err := s.replicas()
	if err != nil {
		return reply{}, err
	}
	if !api.ValidID(c.Param("id")) {
		return reply{}, api.Invalidf("id", "%q is not a replica's id", c.Param("id"))
	}
	return reply{}, r.RemoveReplica(c.Request.Context(), c.Param("id"))
}

func (s *Server) setLeader(c *gin.Context) (reply, error) {
	var b struct {
		Replica string `json:"replica"`
	}
	if err := readBody(c, &b, true); err != nil {
		return reply{}, err
	}
	r, err := s.replicas()
	if err != nil {
		return reply{}, err
	}
	return reply{}, r.TransferLeadership(c.Request.Context(), b.Replica)
}

// saveSnapshot streams the state. A fault on the way breaks the connection:
// what the client has then ends too early, and reading it says so.
func (s *Server) saveSnapshot(c *gin.Context) {
	r, err := s.replicas()
	if err == nil {
		err = s.authorize(c, []api.Right{api.RightAdmin})
	}
	if err == nil {
		err = r.Consistent(c.Request.Context())
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	c.Header("Content-Type", "application/octet-stream")
	c.Header("Cache-Control", "no-store")
	if err := r.SaveSnapshot(c.Request.Context(), c.Writer); err != nil {
		s.log.Warn("snapshot was not sent whole", "error", err)
		panic(http.ErrAbortHandler)
	}
}

func (s *Server) restoreSnapshot(c *gin.Context) {
	r, err := s.replicas()
	if err == nil {
		err = s.authorize(c, []api.Right{api.RightAdmin})
	}
	if err == nil {
		err = r.RestoreSnapshot(c.Request.Context(), c.Request.Body)
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	s.answer(c, reply{})
}
