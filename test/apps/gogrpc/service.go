package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// serviceName is before the method in a path.
const serviceName = "weft.test.Matrix"

// message is what a StringValue holds.
type message struct {
	ID      string `json:"id"`
	Pattern string `json:"pattern"`       // what a relay does; "" at a back end
	Own     string `json:"own,omitempty"` // traceparent that the program sets itself
	Fail    uint32 `json:"fail,omitempty"`
	Sleep   int    `json:"sleep,omitempty"` // milliseconds
}

func (m message) wrap() *wrapperspb.StringValue {
	text, err := json.Marshal(m)
	if err != nil {
		panic(err) // a struct of strings and numbers
	}
	return wrapperspb.String(string(text))
}

func unwrap(v *wrapperspb.StringValue) (message, error) {
	var m message
	if err := json.Unmarshal([]byte(v.GetValue()), &m); err != nil {
		return m, status.Errorf(codes.InvalidArgument, "message %.100q: %v", v.GetValue(), err)
	}
	return m, nil
}

// arrival is a call as it came.
type arrival struct {
	ID           string   `json:"id"`
	Call         string   `json:"call"`
	Traceparents []string `json:"traceparents"`
	Bad          string   `json:"bad,omitempty"`
}

// service is what both roles serve; a back end has no next.
type service struct {
	next     *relay
	mu       sync.Mutex
	arrivals []arrival
}

// description is what protoc would have generated for
//
//	service Matrix {
//	  rpc Unary(StringValue) returns (StringValue);
//	  rpc Client(stream StringValue) returns (StringValue);
//	  rpc Server(StringValue) returns (stream StringValue);
//	  rpc Bidi(stream StringValue) returns (stream StringValue);
//	}
var description = grpc.ServiceDesc{
	ServiceName: serviceName,
	HandlerType: (*any)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Unary", Handler: unary}},
	Streams: []grpc.StreamDesc{
		{StreamName: "Client", Handler: stream(false), ClientStreams: true},
		{StreamName: "Server", Handler: stream(true), ServerStreams: true},
		{StreamName: "Bidi", Handler: stream(true), ClientStreams: true, ServerStreams: true},
	},
}

func unary(srv any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	in := new(wrapperspb.StringValue)
	if err := dec(in); err != nil {
		return nil, err
	}
	s, ok := srv.(*service)
	if !ok {
		return nil, status.Errorf(codes.Internal, "service is a %T", srv)
	}
	m, err := unwrap(in)
	if err != nil {
		return nil, err
	}
	s.arrived(ctx)
	if err := s.answer(ctx, m); err != nil {
		return nil, err
	}
	return in, nil
}

// stream echoes every message, or the last one at the end.
func stream(echo bool) grpc.StreamHandler {
	return func(srv any, st grpc.ServerStream) error {
		s, ok := srv.(*service)
		if !ok {
			return status.Errorf(codes.Internal, "service is a %T", srv)
		}
		s.arrived(st.Context())
		last := new(wrapperspb.StringValue)
		for n := 0; ; n++ {
			in := new(wrapperspb.StringValue)
			err := st.RecvMsg(in)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			last = in
			m, err := unwrap(in)
			if err != nil {
				return err
			}
			// The first message says what to do; the others are content.
			if n == 0 {
				if err := s.answer(st.Context(), m); err != nil {
					return err
				}
			}
			if echo {
				if err := st.SendMsg(in); err != nil {
					return err
				}
			}
		}
		if echo {
			return nil
		}
		return st.SendMsg(last)
	}
}

func (s *service) arrived(ctx context.Context) {
	md, _ := metadata.FromIncomingContext(ctx)
	a := arrival{Traceparents: md.Get("traceparent")}
	truth := md.Get("x-truth")
	if len(truth) == 1 {
		for i := len(truth[0]) - 1; i >= 0; i-- {
			if truth[0][i] == '/' {
				a.ID, a.Call = truth[0][:i], truth[0][i+1:]
				break
			}
		}
	}
	if a.ID == "" {
		a.Bad = fmt.Sprintf("x-truth %q", truth)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrivals = append(s.arrivals, a)
}

// answer does what a message asks for.
func (s *service) answer(ctx context.Context, m message) error {
	if s.next != nil {
		if err := s.next.do(ctx, m); err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		return nil
	}
	if m.Sleep > 0 {
		select {
		case <-time.After(time.Duration(m.Sleep) * time.Millisecond):
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	if m.Fail != 0 {
		return status.Error(codes.Code(m.Fail), "as asked")
	}
	return nil
}
