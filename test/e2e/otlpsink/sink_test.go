package otlpsink

import (
	"context"
	"testing"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"weft/test/e2e/truth"
)

func text(key, value string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: value}}}
}

func TestReceivesFromStandardClients(t *testing.T) {
	sink, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	clients := map[string]otlptrace.Client{
		"grpc": otlptracegrpc.NewClient(otlptracegrpc.WithInsecure(), otlptracegrpc.WithEndpoint(sink.GRPC),
			otlptracegrpc.WithCompressor("gzip")),
		"http": otlptracehttp.NewClient(otlptracehttp.WithInsecure(), otlptracehttp.WithEndpoint(sink.HTTP),
			otlptracehttp.WithCompression(otlptracehttp.GzipCompression)),
	}
	spans := []*tracepb.ResourceSpans{{
		Resource: &resourcepb.Resource{Attributes: []*commonpb.KeyValue{text("service.name", "cart"),
			{Key: "process.pid", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: 7}}}}},
		ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{{
			TraceId: []byte("0123456789abcdef"), SpanId: []byte("01234567"), Name: "GET",
			Kind: tracepb.Span_SPAN_KIND_CLIENT, StartTimeUnixNano: 1, EndTimeUnixNano: 3, Flags: 0x101,
			TraceState: "dd=s:1",
			Links:      []*tracepb.Span_Link{{TraceId: []byte("fedcba9876543210"), SpanId: []byte("76543210"), Flags: 0x103}},
			Status:     &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR},
			Attributes: []*commonpb.KeyValue{text("weft.parent.rule", "thread"), text("weft.propagation", "injected"),
				text("url.full", "http://h/leaf?id=a%201")},
		}}}},
	}}
	for name, c := range clients {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := c.Start(ctx); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := c.Stop(context.Background()); err != nil {
					t.Error(err)
				}
			}()
			if err := c.UploadTraces(ctx, spans); err != nil {
				t.Fatal(err)
			}
			sink.Wait(1, 5*time.Second)
			got := sink.Take()
			if len(got) != 1 {
				t.Fatalf("%d spans", len(got))
			}
			s := got[0]
			if s.Kind != "CLIENT" || s.Service != "cart" || s.PID != 7 || s.Rule != "thread" || s.Propagation != "injected" ||
				s.Status != "ERROR" || s.Flags != 1 || s.ID() != "a 1" || s.Path() != "/leaf" || s.ParentID != "" || s.End != 3 ||
				s.TraceState != "dd=s:1" || len(s.Links) != 1 || s.Links[0] != (truth.Link{TraceID: "66656463626139383736353433323130", SpanID: "3736353433323130", Flags: 3}) {
				t.Fatalf("%+v", s)
			}
		})
	}
}
