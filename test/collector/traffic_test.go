package collector

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

type traceID [16]byte

// kind says why a trace should be kept.
type kind int

const (
	ordinary kind = iota
	failed        // the last node's span has an error
	slow          // the first node's spans are over the threshold
	// Every span is short, but the last node begins long after the first has
	// ended, as behind a queue: only who sees both halves can tell.
	slowTogether
	kinds
)

func (k kind) String() string {
	return [kinds]string{"ordinary", "failed", "slow", "slow together"}[k]
}

// story is a trace as its three nodes tell it.
type story struct {
	id         traceID
	kind       kind
	tracestate string
	random     uint64 // 56 bits: ot=rv, else of the trace-id
	head       uint64 // threshold of ot=th; 0 without
	spans      []part
}

// part is one span and the node that saw it.
type part struct {
	node int
	span *tracepb.Span
}

// author makes up traffic, the same for the same seed.
type author struct {
	random    *rand.Rand
	threshold time.Duration // of the latency policy
	base      time.Time
	members   int // of the longest tracestate

	made [kinds]int // requests there were, with those that a head sampled out
}

// quarter is the threshold of a head sampler that keeps one in four.
const quarter = 0xc << 52

// write returns n traces that the heads kept.
func (a *author) write(n int) []*story {
	var out []*story
	for i := 0; len(out) < n; i++ {
		s := &story{kind: ordinary}
		switch {
		case i%20 == 3:
			s.kind = failed
		case i%40 == 7:
			s.kind = slow
		case i%40 == 27:
			s.kind = slowTogether
		}
		binary.BigEndian.PutUint64(s.id[:], a.random.Uint64())
		binary.BigEndian.PutUint64(s.id[8:], a.random.Uint64())
		s.random = binary.BigEndian.Uint64(s.id[8:]) & (1<<56 - 1)
		var ot []string
		switch a.random.IntN(4) {
		case 0:
			ot = append(ot, "th:0")
		case 1:
			ot = append(ot, "th:c")
			s.head = quarter
		}
		if a.random.IntN(3) == 0 {
			s.random = a.random.Uint64() & (1<<56 - 1)
			ot = append(ot, fmt.Sprintf("rv:%014x", s.random))
		}
		a.made[s.kind]++
		if s.random < s.head {
			continue // sampled out where it began
		}
		s.tracestate = a.tracestate(ot)
		s.spans = a.spans(s)
		out = append(out, s)
	}
	return out
}

// tracestate puts the sub-members of ot among other vendors' members.
func (a *author) tracestate(ot []string) string {
	var members []string
	if len(ot) > 0 {
		members = append(members, "ot="+strings.Join(ot, ";"))
	}
	switch a.random.IntN(5) {
	case 0:
		members = append(members, "dd=s:1;o:rum;t.dm:-4", "acme@hny=a b!~")
	case 1:
		members = append([]string{"congo=t61rcWkgMzE"}, members...)
	case 2:
		for n := len(members); n < a.members; n++ {
			members = append(members, fmt.Sprintf("vendor%d=%s", n, strings.Repeat("v", 15)))
		}
	}
	return strings.Join(members, ",")
}

// spans are those of a request that goes from node to node.
func (a *author) spans(s *story) []part {
	short := func() time.Duration { return time.Duration(1+a.random.IntN(50)) * time.Millisecond }
	first, last := a.threshold/2+short(), time.Duration(0)
	switch s.kind {
	case slow:
		first = a.threshold + short()
	case slowTogether:
		first, last = short(), a.threshold
	}
	outlines := []struct {
		node, parent int // index of the parent's span; -1: root
		kind         tracepb.Span_SpanKind
		start, took  time.Duration
	}{
		{0, -1, tracepb.Span_SPAN_KIND_SERVER, 0, first},
		{0, 0, tracepb.Span_SPAN_KIND_CLIENT, 0, first - time.Millisecond},
		{1, 1, tracepb.Span_SPAN_KIND_SERVER, 0, short()},
		{1, 2, tracepb.Span_SPAN_KIND_INTERNAL, 0, time.Microsecond},
		{1, 2, tracepb.Span_SPAN_KIND_CLIENT, 0, short()},
		{2, 4, tracepb.Span_SPAN_KIND_SERVER, last, short()},
	}
	var parts []part
	for i, o := range outlines {
		start := a.base.Add(o.start)
		span := &tracepb.Span{
			TraceId:           s.id[:],
			SpanId:            binary.BigEndian.AppendUint64(nil, a.random.Uint64()|1),
			TraceState:        s.tracestate,
			Flags:             0x103, // sampled, random, a parent known to be local
			Name:              fmt.Sprintf("GET /%d", i),
			Kind:              o.kind,
			StartTimeUnixNano: uint64(start.UnixNano()),
			EndTimeUnixNano:   uint64(start.Add(o.took).UnixNano()),
			Attributes:        []*commonpb.KeyValue{text("weft.parent.rule", "thread")},
			Status:            &tracepb.Status{},
		}
		if o.parent >= 0 {
			span.ParentSpanId = parts[o.parent].span.SpanId
			if parts[o.parent].node != o.node {
				span.Flags |= 0x200 // remote
			}
		}
		if o.node == 2 && s.kind == failed {
			span.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: "500"}
		}
		parts = append(parts, part{node: o.node, span: span})
	}
	return parts
}

// client is the agent of one node: it knows its own resource and one gateway.
type client struct {
	resource *resourcepb.Resource
	service  coltracepb.TraceServiceClient // nil: over HTTP
	url      string
}

// newClients returns the agents of the three nodes. The last one speaks HTTP.
func newClients(t *testing.T, gateways []*collector) []*client {
	t.Helper()
	var out []*client
	for i, name := range []string{"front", "cart", "stock"} {
		c := &client{resource: &resourcepb.Resource{Attributes: []*commonpb.KeyValue{
			text("service.name", name), text("host.name", fmt.Sprintf("node-%d", i)),
			text("telemetry.sdk.name", "weft"),
		}}}
		gateway := gateways[i%len(gateways)]
		if i == 2 {
			c.url = "http://" + gateway.http + "/v1/traces"
		} else {
			conn, err := grpc.NewClient(gateway.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			c.service = coltracepb.NewTraceServiceClient(conn)
		}
		out = append(out, c)
	}
	return out
}

func text(key, value string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: value}}}
}

// send delivers one request and wants it accepted whole.
func (c *client) send(spans []*tracepb.Span) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	request := &coltracepb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{
		Resource:   c.resource,
		ScopeSpans: []*tracepb.ScopeSpans{{Scope: &commonpb.InstrumentationScope{Name: "weft"}, Spans: spans}},
	}}}
	if c.service != nil {
		response, err := c.service.Export(ctx, request)
		if err != nil {
			return fmt.Errorf("export over gRPC: %w", err)
		}
		if n := response.GetPartialSuccess().GetRejectedSpans(); n != 0 {
			return fmt.Errorf("export over gRPC: %d spans rejected", n)
		}
		return nil
	}
	body, err := proto.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode a request: %w", err)
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("export over HTTP: %w", err)
	}
	post.Header.Set("Content-Type", "application/x-protobuf")
	response, err := http.DefaultClient.Do(post)
	if err != nil {
		return fmt.Errorf("export over HTTP: %w", err)
	}
	defer response.Body.Close()
	said, _ := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("export over HTTP: %s: %s", response.Status, said)
	}
	return nil
}

// tell sends the traces as nodes do: each only its own spans, in any order, a
// trace in several requests with other traces' spans between. A trace is told in
// well under decision_wait, because only 40 are under way at a time.
func (a *author) tell(t *testing.T, stories []*story, clients []*client) {
	t.Helper()
	const together, perRequest = 40, 25
	for len(stories) > 0 {
		n := min(together, len(stories))
		byNode := make([][]*tracepb.Span, len(clients))
		for _, s := range stories[:n] {
			for _, p := range s.spans {
				byNode[p.node] = append(byNode[p.node], p.span)
			}
		}
		stories = stories[n:]
		type request struct {
			client *client
			spans  []*tracepb.Span
		}
		var requests []request
		for node, spans := range byNode {
			a.random.Shuffle(len(spans), func(i, j int) { spans[i], spans[j] = spans[j], spans[i] })
			for len(spans) > 0 {
				n := min(perRequest, len(spans))
				requests = append(requests, request{clients[node], spans[:n]})
				spans = spans[n:]
			}
		}
		a.random.Shuffle(len(requests), func(i, j int) { requests[i], requests[j] = requests[j], requests[i] })
		for _, r := range requests {
			if err := r.client.send(r.spans); err != nil {
				t.Fatal(err)
			}
		}
	}
}
