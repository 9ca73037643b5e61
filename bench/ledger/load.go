package ledger

import (
	"bufio"
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Rate is what a round of concurrent callers achieved.
type Rate struct {
	PerSecond float64
	Done      int
	Slowest   time.Duration
	Median    time.Duration // of one caller's; 0 when there are several
	// CPU is this process's processor time per thing done: what a loaded
	// machine does not change.
	CPU time.Duration
}

// Callers has n callers do one thing after another for a time.
func Callers(ctx context.Context, n int, d time.Duration, caller func(i int) func(context.Context) error) (Rate, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var done, slowest atomic.Int64
	cpu, began := processTime(), time.Now()
	until := began.Add(d)
	var alone []time.Duration
	for i := range n {
		do := caller(i)
		wg.Go(func() {
			for last := time.Now(); last.Before(until) && ctx.Err() == nil; {
				if err := do(ctx); err != nil {
					cancel(err)
					return
				}
				now := time.Now()
				took := int64(now.Sub(last))
				for was := slowest.Load(); took > was && !slowest.CompareAndSwap(was, took); was = slowest.Load() {
				}
				last = now
				if n == 1 {
					alone = append(alone, time.Duration(took))
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	took, n64 := time.Since(began), max(done.Load(), 1)
	r := Rate{PerSecond: float64(done.Load()) / took.Seconds(), Done: int(done.Load()), Slowest: time.Duration(slowest.Load()), CPU: (processTime() - cpu) / time.Duration(n64)}
	if slices.Sort(alone); len(alone) > 0 {
		r.Median = alone[len(alone)/2]
	}
	return r, context.Cause(ctx)
}

// processTime is the processor time that this process has used.
func processTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Direct creates sessions by calls of one replica's methods.
func (c *Cluster) Direct(ctx context.Context, replica, callers int, d time.Duration) (Rate, error) {
	return Callers(ctx, callers, d, func(i int) func(context.Context) error {
		rnd := newRand(uint64(i))
		return func(ctx context.Context) error {
			_, err := c.Create(ctx, replica, Somewhere(rnd))
			return err
		}
	})
}

// HTTP creates sessions through the gateways, callers spread over those given,
// each on its own connection that stays open.
func (c *Cluster) HTTP(ctx context.Context, replicas []int, callers int, d time.Duration) (Rate, error) {
	conns := make([]*conn, callers)
	defer func() {
		for _, k := range conns {
			if k != nil {
				_ = k.c.Close() // the round is over
			}
		}
	}()
	for i := range conns {
		k, err := dial(ctx, c.URLs[replicas[i%len(replicas)]], c.Token)
		if err != nil {
			return Rate{}, err
		}
		conns[i] = k
	}
	return Callers(ctx, callers, d, func(i int) func(context.Context) error {
		rnd := newRand(uint64(i))
		return func(context.Context) error { return conns[i].create(rnd) }
	})
}

// conn is a client's connection to a gateway. It speaks just enough HTTP/1.1 to
// leave the processor to what is measured.
type conn struct {
	c       net.Conn
	r       *bufio.Reader
	head    string
	request []byte
	body    []byte // of the request, then of the answer
	last    []byte // id of the last session
	key     string // begins the keys of its creates
	made    uint64
}

const (
	callTimeout = 60 * time.Second // a connection's round
	maxAnswer   = 64 << 10         // bytes
)

func dial(ctx context.Context, address, token string) (*conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("dial gateway: %w", err)
	}
	if err := c.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return nil, errors.Join(fmt.Errorf("set deadline: %w", err), c.Close())
	}
	head := "POST /1.0/sessions/ HTTP/1.1\r\nHost: " + address + "\r\nAuthorization: Macaroon root=" + token + "\r\nContent-Type: application/json\r\nContent-Length: "
	return &conn{c: c, r: bufio.NewReaderSize(c, 4<<10), head: head, key: crand.Text()}, nil
}

var errAnswer = errors.New("the gateway did not create the session")

// create asks for a session, as the SDK does, for a user somewhere, under an
// idempotency key of its own.
func (k *conn) create(rnd *rand.Rand) error {
	at := Somewhere(rnd)
	b := append(k.body[:0], `{"app":"`+App+`","joinable":false,"screen":{"width":1280,"height":720,"fps":60,"density":240},"extra_data":null,"perigee":{"location":{"latitude":`...)
	b = strconv.AppendFloat(b, at.Latitude, 'f', 4, 64)
	b = strconv.AppendFloat(append(b, `,"longitude":`...), at.Longitude, 'f', 4, 64)
	k.made++
	b = append(append(append(b, `},"idempotency_key":"`...), k.key...), '-')
	b = strconv.AppendUint(b, k.made, 10)
	k.body = append(b, `"}}`...)
	k.request = append(strconv.AppendInt(append(k.request[:0], k.head...), int64(len(k.body)), 10), "\r\n\r\n"...)
	k.request = append(k.request, k.body...)
	if _, err := k.c.Write(k.request); err != nil {
		return fmt.Errorf("ask gateway: %w", err)
	}
	return k.answer()
}

// answer reads one answer and wants 201 with a session that was not there before.
func (k *conn) answer() error {
	line, err := k.r.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	created := bytes.HasPrefix(line, []byte("HTTP/1.1 201 "))
	status := string(bytes.TrimSpace(line[:min(len(line), 16)]))
	length := -1
	for {
		line, err = k.r.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("read answer's head: %w", err)
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			break
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(v)); err != nil {
				return fmt.Errorf("read answer's length: %w", err)
			}
		}
	}
	if length < 0 || length > maxAnswer {
		return fmt.Errorf("%s with a length of %d: %w", status, length, errAnswer)
	}
	k.body = slices.Grow(k.body[:0], length)[:length]
	if _, err := io.ReadFull(k.r, k.body); err != nil {
		return fmt.Errorf("read answer's body: %w", err)
	}
	_, rest, _ := bytes.Cut(k.body, []byte(`"metadata":{"id":"`))
	id, _, whole := bytes.Cut(rest, []byte(`"`))
	if !created || !whole || len(id) == 0 || bytes.Equal(id, k.last) || !bytes.Contains(k.body, []byte(`"status":"created"`)) {
		return fmt.Errorf("%s %s: %w", status, k.body, errAnswer)
	}
	k.last = append(k.last[:0], id...)
	return nil
}

// newRand is the dice of one caller.
func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 17)) }
