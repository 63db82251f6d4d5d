package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// relay calls the back end on behalf of what it serves, over one connection,
// which it opens at the first call.
type relay struct {
	next  string
	creds credentials.TransportCredentials
	once  sync.Once
	dial  error
	conn  *grpc.ClientConn
	pool  chan job
}

// job is a call that a worker makes. Its context is a field because that is how
// such programs pass it on.
type job struct {
	ctx  context.Context
	m    message
	done chan error
}

func newRelay(next string, creds credentials.TransportCredentials) *relay {
	r := &relay{next: next, creds: creds, pool: make(chan job)}
	for i := 0; i < 32; i++ {
		go func() {
			for j := range r.pool {
				j.done <- r.unary(j.ctx, j.m)
			}
		}()
	}
	return r
}

func (r *relay) connect() error {
	r.once.Do(func() {
		r.conn, r.dial = grpc.Dial(r.next, grpc.WithTransportCredentials(r.creds)) //nolint:staticcheck // NewClient came with grpc 1.63
	})
	return r.dial
}

// do makes the calls of a pattern; each is named as the pattern, unless it says
// otherwise.
func (r *relay) do(ctx context.Context, m message) error {
	if err := r.connect(); err != nil {
		return err
	}
	if strings.HasPrefix(m.Pattern, "via:") {
		next := m
		next.Pattern = strings.TrimPrefix(m.Pattern, "via:")
		return r.invoke(with(ctx, m, "via"), next)
	}
	switch m.Pattern {
	case "none":
		return nil
	case "unary":
		return r.unary(ctx, m)
	case "client", "server", "bidi":
		return r.stream(ctx, m, 3)
	case "long":
		m.Pattern = "bidi"
		return r.streamAs(ctx, m, "long", 200)
	case "background":
		return r.unary(context.Background(), m)
	case "go":
		return waited(func() error { return r.unary(context.Background(), m) })
	case "goctx":
		return waited(func() error { return r.unary(ctx, m) })
	case "pool":
		return r.through(ctx, m)
	case "pool-background":
		return r.through(context.Background(), m)
	case "errgroup":
		g, ctx := errgroup.WithContext(ctx)
		for _, name := range []string{"a", "b", "c"} {
			ctx := with(ctx, m, name)
			g.Go(func() error { return r.invoke(ctx, m) })
		}
		return g.Wait()
	case "own":
		return r.invoke(metadata.AppendToOutgoingContext(with(ctx, m, m.Pattern), "traceparent", m.Own), m)
	case "error":
		failing := m
		failing.Fail = uint32(codes.NotFound)
		return want(codes.NotFound, r.unary(ctx, failing))
	case "deadline":
		ctx, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
		defer cancel()
		slow := m
		slow.Sleep = 10_000
		return want(codes.DeadlineExceeded, r.unary(ctx, slow))
	case "cancel":
		return r.cancelled(ctx, m)
	}
	return fmt.Errorf("no pattern %q", m.Pattern)
}

func (r *relay) through(ctx context.Context, m message) error {
	done := make(chan error, 1)
	r.pool <- job{ctx: ctx, m: m, done: done}
	return <-done
}

// with adds the truth of a call.
func with(ctx context.Context, m message, name string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "x-truth", m.ID+"/"+name)
}

func want(code codes.Code, err error) error {
	if got := status.Code(err); got != code {
		return fmt.Errorf("status %v, want %v: %w", got, code, err)
	}
	return nil
}

func (r *relay) unary(ctx context.Context, m message) error {
	return r.invoke(with(ctx, m, m.Pattern), m)
}

func (r *relay) invoke(ctx context.Context, m message) error {
	in, out := m.wrap(), new(wrapperspb.StringValue)
	if err := r.conn.Invoke(ctx, "/"+serviceName+"/Unary", in, out); err != nil {
		return err
	}
	if out.GetValue() != in.GetValue() {
		return fmt.Errorf("answered %.100q", out.GetValue())
	}
	return nil
}

func (r *relay) stream(ctx context.Context, m message, n int) error {
	return r.streamAs(ctx, m, m.Pattern, n)
}

// streamAs sends n messages, or one, and wants them back.
func (r *relay) streamAs(ctx context.Context, m message, name string, n int) error {
	desc := &grpc.StreamDesc{ClientStreams: m.Pattern != "server", ServerStreams: m.Pattern != "client"}
	method := strings.ToUpper(m.Pattern[:1]) + m.Pattern[1:]
	st, err := r.conn.NewStream(with(ctx, m, name), desc, "/"+serviceName+"/"+method)
	if err != nil {
		return err
	}
	if !desc.ClientStreams {
		n = 1
	}
	in := m.wrap()
	echoed := 0
	for i := 0; i < n; i++ {
		if err := st.SendMsg(in); err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		if !desc.ServerStreams || !desc.ClientStreams {
			continue
		}
		if err := st.RecvMsg(new(wrapperspb.StringValue)); err != nil {
			return fmt.Errorf("answer %d: %w", i, err)
		}
		echoed++
	}
	if err := st.CloseSend(); err != nil {
		return err
	}
	for {
		out := new(wrapperspb.StringValue)
		err := st.RecvMsg(out)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if out.GetValue() != in.GetValue() {
			return fmt.Errorf("answered %.100q", out.GetValue())
		}
		echoed++
		if !desc.ServerStreams {
			break // the one answer; its status came with it
		}
	}
	if wanted := map[string]int{"client": 1, "server": 1, "bidi": n}[m.Pattern]; echoed != wanted {
		return fmt.Errorf("%d answers to %s, want %d", echoed, m.Pattern, wanted)
	}
	return nil
}

// cancelled gives a stream up after its first answer.
func (r *relay) cancelled(ctx context.Context, m message) error {
	ctx, cancel := context.WithCancel(with(ctx, m, m.Pattern))
	defer cancel()
	st, err := r.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/"+serviceName+"/Bidi")
	if err != nil {
		return err
	}
	if err := st.SendMsg(m.wrap()); err != nil {
		return err
	}
	if err := st.RecvMsg(new(wrapperspb.StringValue)); err != nil {
		return err
	}
	cancel()
	return want(codes.Canceled, st.RecvMsg(new(wrapperspb.StringValue)))
}

// waited runs f in a goroutine of its own.
func waited(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return <-done
}
