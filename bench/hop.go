package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// A hop's traced program in Go: an ordinary handler that asks a service behind it
// and answers with what that says. Neither knows anything of tracing.

// httpHop is net/http on both sides.
func httpHop(in io.Reader, out io.Writer, over wire) error {
	return answer(in, out, func(to passOn) (passedOn, error) {
		listener, config, authority, err := over.listen(to.Address)
		if err != nil {
			return passedOn{}, err
		}
		transport, err := over.transport(to.Authority)
		if err != nil {
			return passedOn{}, err
		}
		transport.MaxIdleConnsPerHost = 256
		behind := &http.Client{Transport: transport, Timeout: 30 * time.Second}
		more := newBurner()
		// Until this process ends.
		over.serve(listener, config, func(w http.ResponseWriter, r *http.Request) {
			if err := errors.Join(more.asked(r), passHTTP(w, r, behind, over.scheme()+"://"+to.Upstream)); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
			}
		})
		return passedOn{listener.Addr().String(), authority}, nil
	})
}

func passHTTP(w http.ResponseWriter, r *http.Request, behind *http.Client, upstream string) error {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, upstream+r.URL.RequestURI(), nil)
	if err != nil {
		return err
	}
	resp, err := behind.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	_, err = w.Write(body)
	return err
}

// grpcHop serves grpc.health.v1, the one service that comes with the library, and
// asks another for what it answers.
func grpcHop(in io.Reader, out io.Writer) error {
	return answer(in, out, func(to passOn) (passedOn, error) {
		behind, err := grpc.NewClient(to.Upstream, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return passedOn{}, fmt.Errorf("connect to %s: %w", to.Upstream, err)
		}
		return serveGRPC(to.Address, &passingHealth{behind: grpc_health_v1.NewHealthClient(behind)})
	})
}

type passingHealth struct {
	grpc_health_v1.UnimplementedHealthServer
	behind grpc_health_v1.HealthClient
}

// Check implements the service.
func (h *passingHealth) Check(ctx context.Context, req *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	return h.behind.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: req.GetService()})
}

func serveGRPC(address string, service grpc_health_v1.HealthServer) (passedOn, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return passedOn{}, fmt.Errorf("listen: %w", err)
	}
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, service)
	go func() { _ = s.Serve(listener) }() // until this process ends
	return passedOn{Address: listener.Addr().String()}, nil
}

// grpcServer is the service behind, and tells, when asked, what it saw.
func grpcServer(in io.Reader, out io.Writer) error {
	health := &countingHealth{}
	at, err := serveGRPC("127.0.0.1:0", health)
	if err != nil {
		return err
	}
	return answer(in, out, func(struct{}) (served, error) { return health.saw.read(at.Address), nil })
}

type countingHealth struct {
	grpc_health_v1.UnimplementedHealthServer
	saw sight
}

// Check implements the service.
func (h *countingHealth) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	fields, _ := metadata.FromIncomingContext(ctx)
	h.saw.request(fields.Get("traceparent"))
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

// sight counts what a server is asked.
type sight struct{ requests, traceparent, sampled, repeated, carried atomic.Uint64 }

// request counts one by the traceparent fields that it brought.
func (s *sight) request(parents []string) {
	s.requests.Add(1)
	switch len(parents) {
	case 0:
	case 1:
		s.traceparent.Add(1)
		// The last digit of 00 to 03, which are all the flags there are.
		if p := parents[0]; p != "" && p[len(p)-1]&1 == 1 {
			s.sampled.Add(1)
		}
	default:
		s.repeated.Add(1)
	}
}

func (s *sight) read(address string) served {
	return served{Address: address, Requests: s.requests.Load(), Traceparent: s.traceparent.Load(), Sampled: s.sampled.Load(),
		Repeated: s.repeated.Load(), Carried: s.carried.Load()}
}

// shared is over how many connections a client of many goroutines makes its HTTP/2
// requests.
const shared = 4

// grpcGet makes requests over a few connections.
func grpcGet(target string) (get func(conn int) error, stop func() error, err error) {
	var conns []*grpc.ClientConn
	stop = func() error {
		var errs []error
		for _, c := range conns {
			errs = append(errs, c.Close())
		}
		return errors.Join(errs...)
	}
	var clients []grpc_health_v1.HealthClient
	for range shared {
		c, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("connect to %s: %w", target, err), stop())
		}
		conns, clients = append(conns, c), append(clients, grpc_health_v1.NewHealthClient(c))
	}
	service := strings.Repeat("weft and warp. ", 8) // as long as the pages of HTTP
	return func(conn int) error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		resp, err := clients[conn%shared].Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
		if err == nil && resp.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			err = fmt.Errorf("answer %s", resp.GetStatus())
		}
		return err
	}, stop, nil
}
