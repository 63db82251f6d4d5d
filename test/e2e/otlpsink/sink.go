// Package otlpsink receives spans by OTLP, over gRPC and HTTP/protobuf, and
// keeps them for a test to judge.
package otlpsink

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // accepts what a client compresses
	"google.golang.org/protobuf/proto"

	"weft/test/e2e/truth"
)

// Sink is a running receiver on loopback.
type Sink struct {
	collector.UnimplementedTraceServiceServer

	GRPC string // host:port
	HTTP string // host:port

	grpc *grpc.Server
	http *http.Server

	mu      sync.Mutex
	spans   []truth.Span
	changed chan struct{} // closed and replaced when spans come
}

// Start listens on two free ports.
func Start() (*Sink, error) { return StartAt("127.0.0.1:0", "127.0.0.1:0") }

// StartAt listens on two given addresses, host:port.
func StartAt(grpcAddr, httpAddr string) (*Sink, error) {
	s := &Sink{grpc: grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20)), changed: make(chan struct{})}
	gl, err := net.Listen("tcp", grpcAddr)
	if err != nil {
		return nil, fmt.Errorf("listen for OTLP: %w", err)
	}
	hl, err := net.Listen("tcp", httpAddr)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for OTLP: %w", err), gl.Close())
	}
	s.GRPC, s.HTTP = gl.Addr().String(), hl.Addr().String()
	collector.RegisterTraceServiceServer(s.grpc, s)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", s.post)
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	// Both return when Close is called.
	go func() { _ = s.grpc.Serve(gl) }()
	go func() { _ = s.http.Serve(hl) }()
	return s, nil
}

// Close stops both listeners.
func (s *Sink) Close() error {
	s.grpc.Stop()
	return s.http.Close()
}

// Export implements the gRPC service.
func (s *Sink) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.add(req)
	return &collector.ExportTraceServiceResponse{}, nil
}

func (s *Sink) post(w http.ResponseWriter, r *http.Request) {
	req, err := decode(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.add(req)
	out, err := proto.Marshal(&collector.ExportTraceServiceResponse{})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(out) // a client that is gone needs no answer
}

func decode(r *http.Request) (*collector.ExportTraceServiceRequest, error) {
	if ct := r.Header.Get("Content-Type"); ct != "application/x-protobuf" {
		return nil, fmt.Errorf("content type %q", ct)
	}
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, fmt.Errorf("uncompress: %w", err)
		}
		body = z
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	req := &collector.ExportTraceServiceRequest{}
	if err := proto.Unmarshal(raw, req); err != nil {
		return nil, fmt.Errorf("decode body: %w", err)
	}
	return req, nil
}

func (s *Sink) add(req *collector.ExportTraceServiceRequest) {
	var spans []truth.Span
	for _, rs := range req.GetResourceSpans() {
		res := attributes(rs.GetResource().GetAttributes())
		for _, ss := range rs.GetScopeSpans() {
			for _, sp := range ss.GetSpans() {
				spans = append(spans, convert(sp, res))
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spans = append(s.spans, spans...)
	close(s.changed)
	s.changed = make(chan struct{})
}

// Take returns the spans received since the last Take.
func (s *Sink) Take() []truth.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.spans
	s.spans = nil
	return taken
}

// Wait returns once at least n spans are there or nothing new has come for
// quiet.
func (s *Sink) Wait(n int, quiet time.Duration) {
	for {
		s.mu.Lock()
		have, changed := len(s.spans), s.changed
		s.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-changed:
		case <-time.After(quiet):
			return
		}
	}
}

func convert(sp *tracepb.Span, res map[string]any) truth.Span {
	out := truth.Span{
		TraceID:    hex.EncodeToString(sp.GetTraceId()),
		SpanID:     hex.EncodeToString(sp.GetSpanId()),
		ParentID:   hex.EncodeToString(sp.GetParentSpanId()),
		Name:       sp.GetName(),
		Kind:       strings.TrimPrefix(sp.GetKind().String(), "SPAN_KIND_"),
		Start:      int64(sp.GetStartTimeUnixNano()),
		End:        int64(sp.GetEndTimeUnixNano()),
		Status:     strings.TrimPrefix(sp.GetStatus().GetCode().String(), "STATUS_CODE_"),
		Flags:      uint8(sp.GetFlags()),
		TraceState: sp.GetTraceState(),
		Attributes: attributes(sp.GetAttributes()),
		Resource:   res,
	}
	for _, l := range sp.GetLinks() {
		out.Links = append(out.Links, truth.Link{TraceID: hex.EncodeToString(l.GetTraceId()),
			SpanID: hex.EncodeToString(l.GetSpanId()), Flags: uint8(l.GetFlags())})
	}
	out.DurationMs = float64(out.End-out.Start) / 1e6
	out.Rule = out.Attr("weft.parent.rule")
	out.Propagation = out.Attr("weft.propagation")
	out.Service, _ = res["service.name"].(string)
	if pid, ok := res["process.pid"].(int64); ok {
		out.PID = int(pid)
	}
	return out
}

func attributes(kvs []*commonpb.KeyValue) map[string]any {
	out := make(map[string]any, len(kvs))
	for _, kv := range kvs {
		switch v := kv.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			out[kv.GetKey()] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			out[kv.GetKey()] = v.IntValue
		case *commonpb.AnyValue_BoolValue:
			out[kv.GetKey()] = v.BoolValue
		case *commonpb.AnyValue_DoubleValue:
			out[kv.GetKey()] = v.DoubleValue
		default:
			out[kv.GetKey()] = kv.GetValue().String()
		}
	}
	return out
}
