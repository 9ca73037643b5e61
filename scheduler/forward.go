package scheduler

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/raft"

	"github.com/perigee-cloud/perigee/api"
)

const (
	callTimeout = 30 * time.Second      // of a call that its caller does not bound
	callPause   = 5 * time.Millisecond  // between two tries to reach a leader, at first
	callRests   = 20 * time.Millisecond // and at most: an election is over in a few hundred
	maxCall     = 8 << 20               // bytes of a call and of its answer
	callPath    = "/call/"
	timeoutHead = "Perigee-Timeout-Ms"
	indexHead   = "Perigee-Index" // of a packed answer, as callAnswer's
)

// Whether a failed call may be made again.
type again int

const (
	never  again = iota
	safely       // it was not carried out
	unsure       // it may have been carried out
)

var (
	errNotLeader = errors.New("this replica does not lead")
	errDeposed   = errors.New("the leader was replaced before it could confirm")
	errDial      = errors.New("the replica is not reached")
)

func retryable(err error) again {
	switch {
	case err == nil:
		return never
	case errors.Is(err, errNotLeader), errors.Is(err, errDial):
		return safely
	case errors.Is(err, errDeposed):
		return unsure
	default:
		return never
	}
}

// ofRaft says what an error of Raft means for the command it answers.
func ofRaft(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return errNotLeader
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, raft.ErrAbortedByRestore):
		return errDeposed
	default:
		return err
	}
}

// packed is an answer in a form of its own, which is sent as it is.
type packed []byte

// handler carries out one call for another replica.
type handler func(ctx context.Context, q []byte) (any, error)

func handle[Q, A any](do func(context.Context, Q) (A, error)) handler {
	return func(ctx context.Context, b []byte) (any, error) {
		var q Q
		if err := json.Unmarshal(b, &q); err != nil {
			return nil, api.Errorf(api.CodeInvalid, "the call is not understood: %v", err)
		}
		return do(ctx, q)
	}
}

// nothing is the answer of a call that only succeeds or fails.
type nothing struct{}

// handlers are the calls that replicas make to the leader. Each may be made
// again when it is not sure whether it was carried out.
func (s *Server) handlers() map[string]handler {
	return map[string]handler{
		"create": handle(s.create), "launch": handle(s.launch), createsName: s.createMany, "join": handle(s.join), "end": handle(s.end),
		"node.join": handle(s.joinNode), "node.drain": handle(s.setDrain), "node.remove": handle(s.removeNode),
		"app.put": handle(s.putApp), "app.delete": handle(s.deleteApp),
		"app.stage": handle(s.stageApp), "app.publish": handle(s.publishApp), "version.delete": handle(s.deleteVersion),
		"token.put": handle(s.putToken), "token.revoke": handle(s.revokeToken), "account.delete": handle(s.deleteAccount), "account.policy": handle(s.setPolicy),
		"share": handle(s.share), "share.change": handle(s.changeShare), "share.revoke": handle(s.revokeShare),
		"demand": handle(s.presentDemand), "explain": handle(s.explained), explainHere: handle(s.orNone), "refusals": handle(s.refusals), refusalsHere: handle(s.refusals), "queue.seen": handle(s.sawWaiting), "index": handle(s.verifiedIndex), "legacy": handle(s.inherit),
		"pools": handle(s.warmPools), "pool.set": handle(s.setPool), "pool.delete": handle(s.dropPool),
		"replica.register": handle(s.registerHere), "replica.add": handle(s.addReplica),
		"replica.remove": handle(s.removeReplica), "replica.demote": handle(s.demoteReplica), "replica.lead": handle(s.transfer),
	}
}

// takesAway says of a call that what is not there any more was taken away by an
// earlier try of it.
func takesAway(name string) bool {
	switch name {
	case "node.remove", "app.delete", "version.delete", "token.revoke", "account.delete", "replica.remove", "share.revoke", "pool.delete":
		return true
	default:
		return false
	}
}

// callAnswer is what a replica answers to a call.
type callAnswer struct {
	Answer json.RawMessage `json:"answer,omitempty"`
	Error  *api.Error      `json:"error,omitempty"`
	Again  again           `json:"again,omitempty"`
	Index  uint64          `json:"index"` // of the leader's state when it answered
}

// onLeader carries a call out where the leader is. During an election it waits
// and tries again, until the caller's deadline.
func onLeader[Q, A any](ctx context.Context, s *Server, name string, q Q, do func(context.Context, Q) (A, error)) (A, error) {
	return onLeaderBy(ctx, s, name, q, do, func(ctx context.Context, q Q) (A, error) {
		var a A
		err := s.ask(ctx, name, q, &a)
		return a, err
	})
}

// onLeaderBy is onLeader with a way of its own to the leader.
func onLeaderBy[Q, A any](ctx context.Context, s *Server, name string, q Q, do, there func(context.Context, Q) (A, error)) (A, error) {
	var none A
	if err := s.serving(); err != nil {
		return none, err
	}
	if _, bounded := ctx.Deadline(); !bounded {
		limited, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		ctx = limited
	}
	doubt := false
	for rest := callPause; ; rest = min(2*rest, callRests) {
		var a A
		var err error
		if s.leads() {
			a, err = do(ctx, q)
		} else {
			a, err = there(ctx, q)
		}
		switch retryable(err) {
		case never:
			if doubt && takesAway(name) && api.CodeOf(err) == api.CodeNotFound {
				return none, nil
			}
			return a, err
		case unsure:
			doubt = true
		}
		select {
		case <-s.stopping:
			return none, api.Errorf(api.CodeUnavailable, "the scheduler is stopping")
		default:
		}
		if !pause(ctx, rest) {
			return none, &api.Error{Code: api.CodeUnavailable, Message: "the schedulers have no leader: try again", Err: ctx.Err()}
		}
	}
}

// ask makes a call to the leader. It returns once this replica shows what the
// leader's answer was based on, but for creates, which many wait for.
func (s *Server) ask(ctx context.Context, name string, q, a any) error {
	to, ok := s.leader()
	if !ok {
		return errNotLeader
	}
	index, err := s.call(ctx, to, name, q, a)
	r := s.replica.Load()
	// Who is removed never hears what its cluster has come to since.
	if err != nil || name == "create" || name == "replica.remove" && q == string(r.id) {
		return err
	}
	if r.fsm.await(ctx, index) != nil {
		return api.Errorf(api.CodeTimeout, "the change was made, but has not come to this replica in time")
	}
	return nil
}

// call makes a call to a replica; it fails with errDeposed when that one is
// found to lead no more.
func (s *Server) call(ctx context.Context, to target, name string, q, a any) (uint64, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return 0, fmt.Errorf("encode call: %w", err)
	}
	b, _, err := s.exchange(ctx, to, name, body)
	if err != nil {
		return 0, err
	}
	answer, err := readAnswer(name, b)
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(answer.Answer, a); err != nil {
		return 0, fmt.Errorf("read answer of call %s: %w", name, err)
	}
	return answer.Index, nil
}

// carry makes a call whose question and answer are packed.
func (s *Server) carry(ctx context.Context, to target, name string, body []byte) (packed, uint64, error) {
	b, head, err := s.exchange(ctx, to, name, body)
	if err != nil {
		return nil, 0, err
	}
	at := head.Get(indexHead)
	if at == "" {
		_, err := readAnswer(name, b)
		return nil, 0, cmp.Or(err, errDeposed)
	}
	index, err := strconv.ParseUint(at, 10, 64)
	if err != nil {
		return nil, 0, fmt.Errorf("read answer of call %s: %w", name, err)
	}
	return b, index, nil
}

func readAnswer(name string, b []byte) (answer callAnswer, err error) {
	if err := json.Unmarshal(b, &answer); err != nil {
		return answer, fmt.Errorf("read answer of call %s: %w", name, err)
	}
	switch {
	case answer.Again == safely:
		return answer, errNotLeader
	case answer.Again == unsure:
		return answer, errDeposed
	case answer.Error != nil:
		return answer, answer.Error
	}
	return answer, nil
}

// exchange brings a call to a replica and its answer back.
func (s *Server) exchange(ctx context.Context, to target, name string, body []byte) ([]byte, http.Header, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if to.leads != nil {
		stop := context.AfterFunc(to.leads, cancel)
		defer stop()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+to.address+callPath+name, bytes.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("make call: %w", err)
	}
	if at, ok := ctx.Deadline(); ok {
		req.Header.Set(timeoutHead, strconv.FormatInt(max(time.Until(at).Milliseconds(), 1), 10))
	}
	res, err := s.peers.client.Do(req)
	if err != nil {
		if errors.Is(err, errDial) {
			return nil, nil, err
		}
		return nil, nil, fmt.Errorf("%w: %w", errDeposed, err)
	}
	defer func() { _ = res.Body.Close() }() // read to its end below
	b, err := readAll(res.Body, res.ContentLength)
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("%w: %w", errDeposed, err)
	case res.StatusCode == http.StatusNotFound:
		return nil, nil, fmt.Errorf("call %s: %w", name, errUnknownCall)
	case res.StatusCode != http.StatusOK:
		return nil, nil, fmt.Errorf("call %s is answered by HTTP %d", name, res.StatusCode)
	}
	return b, res.Header, nil
}

// readAll reads a body of at most maxCall bytes, whose length may be known.
func readAll(r io.Reader, length int64) ([]byte, error) {
	if length < 0 || length > maxCall {
		return io.ReadAll(io.LimitReader(r, maxCall))
	}
	b := make([]byte, length)
	_, err := io.ReadFull(r, b)
	return b, err
}

// serveCall answers another replica's call, as the leader.
func (s *Server) serveCall(w http.ResponseWriter, req *http.Request) {
	name := req.PathValue("name")
	h, known := s.calls[name]
	if !known {
		http.Error(w, "no such call: the replicas run different versions", http.StatusNotFound)
		return
	}
	ctx := req.Context()
	if ms, err := strconv.ParseInt(req.Header.Get(timeoutHead), 10, 64); err == nil && ms > 0 {
		limited, cancel := context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
		defer cancel()
		ctx = limited
	}
	body, err := readAll(http.MaxBytesReader(w, req.Body, maxCall), req.ContentLength)
	if err != nil {
		return // it is gone
	}
	var out callAnswer
	if s.serving() != nil || !s.leads() && !anyReplica(name) {
		out.Again = safely
	} else {
		a, err := h(ctx, body)
		if b, is := a.(packed); is && err == nil {
			w.Header().Set(indexHead, strconv.FormatUint(s.replica.Load().fsm.index.Load(), 10))
			w.Header().Set("Content-Length", strconv.Itoa(len(b)))
			_, _ = w.Write(b) // it is gone if this fails
			return
		}
		out = s.answerOf(a, err)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // it is gone if this fails
}

func (s *Server) answerOf(a any, err error) callAnswer {
	out := callAnswer{Again: retryable(err), Index: s.replica.Load().fsm.index.Load()}
	switch {
	case out.Again != never:
	case err != nil:
		out.Error = told(err)
	default:
		if out.Answer, err = json.Marshal(a); err != nil {
			out.Error = told(fmt.Errorf("encode answer: %w", err))
		}
	}
	return out
}

// told gives an error as it travels to another replica: its cause as text.
func told(err error) *api.Error {
	var e *api.Error
	if !errors.As(err, &e) {
		code := api.CodeInternal
		if errors.Is(err, context.DeadlineExceeded) {
			code = api.CodeTimeout
		}
		return api.Errorf(code, "%v", err)
	}
	c := *e
	if c.Err != nil {
		c.Message, c.Err = c.Message+": "+c.Err.Error(), nil
	}
	return &c
}
