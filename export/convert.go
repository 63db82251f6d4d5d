package export

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"weft/internal/event"
)

// scopeName is the instrumentation scope of every span.
const scopeName = "weft"

// ConverterOptions describe this agent and its host.
type ConverterOptions struct {
	Version  string // of weft, for telemetry.sdk.version; "" leaves it out
	HostName string // for host.name; "" asks the kernel
}

// Converter turns spans into OTLP. It is immutable and safe for concurrent use.
type Converter struct {
	version string
	base    []attribute.KeyValue // of every resource; a process may override
	methods map[string]bool
}

// NewConverter reads the agent's own OTEL_RESOURCE_ATTRIBUTES, which describe
// the host and go to every resource, and
// OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS.
func NewConverter(o ConverterOptions) (*Converter, error) {
	if o.HostName == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("read host name: %w", err)
		}
		o.HostName = name
	}
	base := []attribute.KeyValue{semconv.HostNameKey.String(o.HostName), semconv.OSTypeLinux}
	env, err := resource.New(context.Background(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w; write key1=value1,key2=value2 with %%-escapes", err)
	}
	for _, kv := range env.Attributes() {
		// The agent's own name is not that of the programs it traces.
		if kv.Key != semconv.ServiceNameKey && kv.Key != semconv.ServiceInstanceIDKey {
			base = append(base, kv)
		}
	}
	return &Converter{
		version: o.Version,
		base:    base,
		methods: knownMethods(os.Getenv("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS")),
	}, nil
}

// ResourceSpans groups spans by process, in order of first appearance.
func (c *Converter) ResourceSpans(spans []*event.Span) []*tracepb.ResourceSpans {
	type group struct {
		process *event.Process
		pid     uint32
	}
	var out []*tracepb.ResourceSpans
	index := make(map[group]*tracepb.ScopeSpans, 8)
	messages := make(shared, 64)
	for _, s := range spans {
		g := group{s.Process, s.PID}
		scope, ok := index[g]
		if !ok {
			scope = &tracepb.ScopeSpans{
				Scope:     &commonpb.InstrumentationScope{Name: scopeName, Version: c.version},
				SchemaUrl: semconv.SchemaURL,
			}
			index[g] = scope
			out = append(out, &tracepb.ResourceSpans{
				Resource:   &resourcepb.Resource{Attributes: messages.keyValues(c.resource(s))},
				ScopeSpans: []*tracepb.ScopeSpans{scope},
				SchemaUrl:  semconv.SchemaURL,
			})
		}
		scope.Spans = append(scope.Spans, c.span(s, messages))
	}
	return out
}

func (c *Converter) span(s *event.Span, messages shared) *tracepb.Span {
	out := &tracepb.Span{
		TraceId:           s.TraceID[:],
		SpanId:            s.SpanID[:],
		TraceState:        validText(s.TraceState),
		Flags:             spanFlags(s),
		Name:              c.spanName(s),
		Kind:              kind(s.Role),
		StartTimeUnixNano: nanos(s.Start),
		EndTimeUnixNano:   nanos(s.Response.End),
		Attributes:        messages.keyValues(c.attributes(s)),
	}
	if s.ParentID != (event.SpanID{}) {
		out.ParentSpanId = s.ParentID[:]
	}
	if hasLink(s) {
		out.Links = []*tracepb.Span_Link{{
			TraceId:    s.Link.TraceID[:],
			SpanId:     s.Link.SpanID[:],
			Flags:      uint32(s.Link.Flags) | isRemote,
			Attributes: messages.keyValues(linkAttributes(s)),
		}}
	}
	if e := s.ErrorType(); e != "" {
		out.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: errorText(e)}
	}
	return out
}

// OTLP flags above the W3C byte: whether it is known that a context came from
// another process, and that it did.
const (
	notRemote = uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
	isRemote  = notRemote | uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
)

// spanFlags are the W3C flags of the wire in the low byte, and whether the
// parent is in another process: only a parent read from an inbound header is.
func spanFlags(s *event.Span) uint32 {
	if s.Rule == event.ParentWire && s.ParentID != (event.SpanID{}) {
		return uint32(s.Flags) | isRemote
	}
	return uint32(s.Flags) | notRemote
}

// hasLink says that a peer claimed a parent that the span did not take.
func hasLink(s *event.Span) bool { return s.Link.SpanID != (event.SpanID{}) }

func kind(r event.Role) tracepb.Span_SpanKind {
	switch r {
	case event.RoleServer:
		return tracepb.Span_SPAN_KIND_SERVER
	case event.RoleClient:
		return tracepb.Span_SPAN_KIND_CLIENT
	}
	return tracepb.Span_SPAN_KIND_UNSPECIFIED
}

// nanos keeps a zero time at zero, which OTLP reads as unknown.
func nanos(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}

// resource describes the process of a span. Later entries win: the host, the
// process, what the process says of itself, and last what weft must be true to.
// The command line is left out on purpose: it may hold secrets.
func (c *Converter) resource(s *event.Span) []attribute.KeyValue {
	kv := slices.Clone(c.base)
	service := unknownService
	if p := s.Process; p != nil {
		if p.ServiceInstance != "" {
			kv = append(kv, semconv.ServiceInstanceIDKey.String(p.ServiceInstance))
		}
		if p.Exe != "" {
			kv = append(kv,
				semconv.ProcessExecutablePathKey.String(p.Exe),
				semconv.ProcessExecutableNameKey.String(filepath.Base(p.Exe)))
		}
		for k, v := range p.Resource {
			kv = append(kv, attribute.String(k, v))
		}
		service = serviceName(p)
	}
	kv = append(kv,
		semconv.ServiceNameKey.String(service),
		semconv.ProcessPIDKey.Int(int(s.PID)),
		semconv.TelemetrySDKNameKey.String("weft"))
	if c.version != "" {
		kv = append(kv, semconv.TelemetrySDKVersionKey.String(c.version))
	}
	// A Set sorts, and of equal keys keeps the last.
	set := attribute.NewSet(kv...)
	return set.ToSlice()
}

// unknownService is what the conventions ask for when no name is known.
const unknownService = "unknown_service"

func serviceName(p *event.Process) string {
	switch {
	case p == nil:
		return unknownService
	case p.Service != "":
		return p.Service
	case p.Exe != "":
		return unknownService + ":" + filepath.Base(p.Exe)
	}
	return unknownService
}

// shared hands out one message for equal attributes of a batch: most of a span's
// are those of its neighbours (method, status, peer, rule), and building them
// anew was the larger part of the conversion. Messages are only read.
type shared map[attribute.KeyValue]*commonpb.KeyValue

func (m shared) keyValues(kv []attribute.KeyValue) []*commonpb.KeyValue {
	out := make([]*commonpb.KeyValue, len(kv))
	for i, a := range kv {
		message, ok := m[a]
		if !ok {
			message = keyValue(a)
			m[a] = message
		}
		out[i] = message
	}
	return out
}

// keyValue allocates the three messages of an attribute at once.
func keyValue(a attribute.KeyValue) *commonpb.KeyValue {
	var all struct {
		pair  commonpb.KeyValue
		value commonpb.AnyValue
	}
	message := &all
	setValue(&message.value, a.Value)
	message.pair.Key, message.pair.Value = validText(string(a.Key)), &message.value
	return &message.pair
}

func setValue(out *commonpb.AnyValue, v attribute.Value) {
	switch v.Type() {
	case attribute.INT64:
		out.Value = &commonpb.AnyValue_IntValue{IntValue: v.AsInt64()}
	case attribute.BOOL:
		out.Value = &commonpb.AnyValue_BoolValue{BoolValue: v.AsBool()}
	default: // everything else weft makes is text
		out.Value = &commonpb.AnyValue_StringValue{StringValue: validText(v.AsString())}
	}
}

// validText mends text that is not UTF-8, which protobuf refuses: bytes off the
// wire, file names and environments may hold any.
func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
