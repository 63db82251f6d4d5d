package export

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"weft/internal/event"
)

// encoded is what a receiver reads of these spans.
func encoded(t testing.TB, e *Encoder, spans []*event.Span) []*tracepb.ResourceSpans {
	t.Helper()
	raw, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: e.ResourceSpans(spans)})
	if err != nil {
		t.Fatal(err)
	}
	var got tracepb.TracesData
	if err := proto.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	return got.ResourceSpans
}

func encodedSpan(t testing.TB, c *Converter, s *event.Span) *tracepb.Span {
	t.Helper()
	return encoded(t, NewEncoder(c), []*event.Span{s})[0].ScopeSpans[0].Spans[0]
}

// reference is what the encoder is held to: the same spans as the generated
// messages of OTLP, built the plain way.
func reference(c *Converter, spans []*event.Span) []*tracepb.ResourceSpans {
	type group struct {
		process *event.Process
		pid     uint32
	}
	var out []*tracepb.ResourceSpans
	index := make(map[group]*tracepb.ScopeSpans, 8)
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
				Resource:   &resourcepb.Resource{Attributes: keyValues(c.resource(s))},
				ScopeSpans: []*tracepb.ScopeSpans{scope},
				SchemaUrl:  semconv.SchemaURL,
			})
		}
		scope.Spans = append(scope.Spans, referenceSpan(c, s))
	}
	return out
}

func referenceSpan(c *Converter, s *event.Span) *tracepb.Span {
	out := &tracepb.Span{
		TraceId:           s.TraceID[:],
		SpanId:            s.SpanID[:],
		TraceState:        validText(s.TraceState),
		Flags:             spanFlags(s),
		Name:              validText(c.spanName(s)),
		Kind:              kind(s.Role),
		StartTimeUnixNano: nanos(s.Start),
		EndTimeUnixNano:   nanos(s.Response.End),
		Attributes:        keyValues(c.attributes(s)),
	}
	if s.ParentID != (event.SpanID{}) {
		out.ParentSpanId = s.ParentID[:]
	}
	if hasLink(s) {
		out.Links = []*tracepb.Span_Link{{
			TraceId:    s.Link.TraceID[:],
			SpanId:     s.Link.SpanID[:],
			Flags:      uint32(s.Link.Flags) | isRemote,
			Attributes: keyValues(linkAttributes(s)),
		}}
	}
	if e := s.ErrorType(); e != "" {
		out.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: errorText(e)}
	}
	return out
}

func keyValues(kv []attribute.KeyValue) []*commonpb.KeyValue {
	out := make([]*commonpb.KeyValue, len(kv))
	for i, a := range kv {
		value := &commonpb.AnyValue{}
		setValue(value, a.Value)
		out[i] = &commonpb.KeyValue{Key: validText(string(a.Key)), Value: value}
	}
	return out
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

// TestEncoderIsOTLP holds every field to what the generated messages say, for
// spans of all kinds, in batches of several processes, and again with an encoder
// that has been used.
func TestEncoderIsOTLP(t *testing.T) {
	clearEnv(t)
	c := testConverter(t)
	e := NewEncoder(c)
	random := rand.New(rand.NewPCG(1, 2))
	processes := []*event.Process{nil, process("web", 10), process("api\xff", 11), {PID: 12, Exe: "/opt/x"}}
	for round := range 200 {
		batch := make([]*event.Span, random.IntN(40))
		for i := range batch {
			batch[i] = anySpan(random, processes)
		}
		if round == 3 {
			batch = append(batch, long())
		}
		compare(t, encoded(t, e, batch), reference(c, batch))
	}
}

// long has fields whose lengths take one byte, two and three.
func long() *event.Span {
	s := hop{id: 1, role: server, rule: event.ParentUntrusted, method: "GET", target: "/", host: "h", status: 200}.span(1)
	s.Link = event.Link{TraceID: event.TraceID{1}, SpanID: event.SpanID{2}, Flags: 1}
	s.Baggage = []event.Member{{Key: "large", Value: strings.Repeat("v", 40_000)}, {Key: "empty"}}
	return s
}

func TestEncoderLengths(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 129, 16_383, 16_384, 16_385, 2_097_151, 2_097_152} {
		body := bytes.Repeat([]byte{7}, n)
		got := lengthed([]byte("before"), func(b []byte) []byte { return append(b, body...) })
		want := protowire.AppendBytes([]byte("before"), body)
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes: length % x…, want % x…", n, got[6:min(len(got), 12)], want[6:min(len(want), 12)])
		}
	}
}

func compare(t *testing.T, got, want []*tracepb.ResourceSpans) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d resources, want %d", len(got), len(want))
	}
	for i := range want {
		if !proto.Equal(got[i], want[i]) {
			t.Fatalf("got  %v\nwant %v", got[i], want[i])
		}
	}
}

// anySpan makes up a span; every field has its zero value at times.
func anySpan(random *rand.Rand, processes []*event.Process) *event.Span {
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	address := func() netip.AddrPort {
		return []netip.AddrPort{{}, netip.MustParseAddrPort("10.0.0.1:8080"), netip.MustParseAddrPort("[::ffff:10.0.0.9]:1"),
			netip.MustParseAddrPort("[2001:db8::1]:443"), netip.MustParseAddrPort("[fe80::1%eth0]:0")}[random.IntN(5)]
	}
	id := func() (id event.SpanID) {
		if random.IntN(2) == 0 {
			binary.BigEndian.PutUint64(id[:], random.Uint64())
		}
		return id
	}
	s := &event.Span{Process: processes[random.IntN(len(processes))]}
	s.Request = event.Request{
		TraceID: event.TraceID{15: byte(random.IntN(256))}, SpanID: id(), ParentID: id(), PID: uint32(random.IntN(3)),
		Role: event.Role(random.IntN(4)), Flags: uint8(random.IntN(256)), Rule: event.ParentRule(random.IntN(13)),
		Propagation: event.Propagation(random.IntN(8)), Protocol: event.Protocol(random.IntN(16)),
		Method: pick("", "GET", "POST", "G\xffT"), Target: pick("", "/", "/a?b=c&sig=1", "*", "http://u:p@h:1/\xff", "h:443"),
		Host: pick("", "shop:8080", "shop", "[::1]:2", "h\xff"), TraceState: pick("", "a=1,b=2", "\xff"),
		TargetTotal: random.IntN(300), Local: address(), Remote: address(),
		Link: event.Link{TraceID: event.TraceID{1}, SpanID: id(), Flags: uint8(random.IntN(256))},
	}
	if s.Process != nil {
		s.PID = s.Process.PID
	}
	if random.IntN(3) > 0 {
		s.Start = at(float64(random.IntN(1000)))
		s.Response.End = s.Start.Add(time.Duration(random.IntN(1 << 30)))
	}
	s.Route = pick("", "", "/items/{id}", "GET shop/\xff")
	s.Response.GRPC = event.GRPCStatus(random.IntN(20))
	s.Response.Status = []int{0, 101, 200, 404, 503}[random.IntN(5)]
	s.Response.Reason = event.End(random.IntN(9))
	s.Response.RequestBody, s.Response.ResponseBody = random.Uint64()>>random.IntN(65), uint64(random.IntN(3))
	for range random.IntN(3) {
		s.Baggage = append(s.Baggage, event.Member{Key: pick("tenant", "user", "url.path", "k\xff"), Value: pick("", "blue", "\xff")})
	}
	return s
}
