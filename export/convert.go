package export

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
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

// validText mends text that is not UTF-8, which protobuf refuses: bytes off the
// wire, file names and environments may hold any.
func validText(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
