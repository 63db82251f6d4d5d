package collector

import (
	"context"
	"net"
	"sync"
	"testing"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // the Collector compresses
)

// arrival is one span as the backend got it.
type arrival struct {
	span     *tracepb.Span
	resource *resourcepb.Resource
}

// sink is the backend behind the samplers: an OTLP receiver that remembers.
type sink struct {
	coltracepb.UnimplementedTraceServiceServer

	address string

	mu     sync.Mutex
	traces map[traceID][]arrival
}

func newSink(t *testing.T) *sink {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{address: l.Addr().String(), traces: make(map[traceID][]arrival)}
	server := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(server, s)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Errorf("serve the sink: %v", err)
		}
	})
	return s
}

// Export is the OTLP service.
func (s *sink) Export(_ context.Context, request *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range request.GetResourceSpans() {
		for _, ss := range rs.GetScopeSpans() {
			for _, span := range ss.GetSpans() {
				id := traceID(span.GetTraceId())
				s.traces[id] = append(s.traces[id], arrival{span: span, resource: rs.GetResource()})
			}
		}
	}
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

// received returns what arrived so far, by trace.
func (s *sink) received() map[traceID][]arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[traceID][]arrival, len(s.traces))
	for id, spans := range s.traces {
		out[id] = append([]arrival(nil), spans...)
	}
	return out
}
