package replay

import (
	"slices"
	"strings"
	"testing"

	"weft/correlate"
	"weft/internal/event"
)

// recordings are the ring of real runs, made by record.sh. After recording anew,
// name the pids here and run with -update.
var recordings = []struct {
	file     string
	services map[uint32]string
	spans    int
	roots    int // requests of the customer
	claims   int // spans whose parent a customer claimed
}{
	// The bundled demo: three purchases by one customer.
	{"testdata/demo.ring", map[uint32]string{665: "demo", 679: "shop", 672: "stock"}, 16, 3, 0},
	// curl → Flask (werkzeug, threads) → Express: twice /call, once a 404.
	{"testdata/flask_express.ring", map[uint32]string{779: "express", 780: "flask", 830: "curl", 833: "curl"}, 10, 3, 0},
	// The same with a context of curl's own, from an address that is trusted and
	// from one that is not: there Flask begins a trace.
	{"testdata/carried.ring", map[uint32]string{961: "express", 962: "flask", 1004: "curl", 1006: "curl"}, 8, 1, 3},
	// curl → a Go shop → a Go stock, twice: HTTP/1, HTTP/2 and gRPC (test/apps/goshop).
	{"testdata/go_shop.ring", map[uint32]string{23437: "curl", 23240: "shop", 23239: "stock"}, 36, 2, 0},
}

// claimed is the context that record.sh sends.
var claimed = event.Link{
	TraceID: event.TraceID{0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36},
	SpanID:  event.SpanID{0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7},
}

func TestRecordings(t *testing.T) {
	for _, r := range recordings {
		name := strings.TrimSuffix(r.file, ".ring")
		t.Run(name, func(t *testing.T) {
			got := Run(t, correlate.Options{}, FeedRecording(t, r.file, r.services))
			Golden(t, name+".golden.json", *update, got)
			if len(got.Lost) > 0 {
				t.Errorf("lost %v", got.Lost)
			}
			if len(got.Spans) != r.spans {
				t.Fatalf("%d spans, want %d", len(got.Spans), r.spans)
			}
			connected(t, got.Spans, r.roots, r.claims)
		})
	}
}

// TestCarriedRecording: what the customer's headers said is on every span behind
// them that may have it.
func TestCarriedRecording(t *testing.T) {
	r := recordings[2]
	blue, user := event.Member{Key: "tenant", Value: "blue"}, event.Member{Key: "user_id", Value: "7 & co"}
	type want struct {
		tracestate string
		baggage    []event.Member
		link       event.Link
	}
	const state = "vendor=1,other=a:b;c"
	wants := map[string]want{
		"curl client 127.0.0.1":    {state, []event.Member{blue}, event.Link{}},
		"flask server 127.0.0.1":   {state, []event.Member{blue, user}, event.Link{}},
		"flask client 127.0.0.1":   {state, []event.Member{blue, user}, event.Link{}},
		"express server 127.0.0.1": {state, []event.Member{blue, user}, event.Link{}},
		// Not believed: no tracestate, of the baggage what this service sets itself.
		"curl client 127.0.0.9":    {state, []event.Member{blue}, event.Link{}},
		"flask server 127.0.0.9":   {"", []event.Member{user}, claimed},
		"flask client 127.0.0.9":   {"", []event.Member{user}, event.Link{}},
		"express server 127.0.0.9": {"", []event.Member{user}, event.Link{}},
	}
	for _, s := range Run(t, correlate.Options{}, FeedRecording(t, r.file, r.services)).Spans {
		_, from, _ := strings.Cut(s.Target, "id=")
		name := s.Process.Service + " " + s.Role.String() + " " + from
		w, ok := wants[name]
		if !ok {
			t.Errorf("%s: not wanted, or twice", name)
			continue
		}
		delete(wants, name)
		if s.TraceState != w.tracestate || !slices.Equal(s.Baggage, w.baggage) || s.Link != w.link {
			t.Errorf("%s: tracestate %q, baggage %v, link %v; want %+v", name, s.TraceState, s.Baggage, s.Link, w)
		}
	}
	if len(wants) > 0 {
		t.Errorf("not seen: %v", wants)
	}
}

// TestGoRecording: each way in which the shop calls is decided by the evidence it
// leaves, and its span says what it was.
func TestGoRecording(t *testing.T) {
	r := recordings[3]
	const purchases = 2
	wants := map[string]int{
		"shop server wire 1.1 GET /items/{id}": purchases,
		// The handler with the request's context, and a worker of a pool with it.
		"shop client context 1.1 GET":                                 2 * purchases,
		"shop client goroutine 1.1 GET":                               purchases,
		"shop client creator 1.1 GET":                                 purchases,
		"shop client context 2 GET":                                   purchases,
		"shop client context 2 GET timeout":                           purchases,
		"shop client context 2 grpc.health.v1.Health/Check":           purchases,
		"shop client context 2 grpc.health.v1.Health/Check NOT_FOUND": purchases,
		"stock server wire 1.1 GET /stock/{id}":                       4 * purchases,
		"stock server wire 2 GET /stock/{id}":                         purchases,
		"stock server wire 2 GET cancelled":                           purchases,
		// The one that was not found is no error of the server's.
		"stock server wire 2 grpc.health.v1.Health/Check": 2 * purchases,
		"curl client none 1.1 GET":                        purchases,
	}
	got := Run(t, correlate.Options{}, FeedRecording(t, r.file, r.services))
	names := map[event.SpanID]string{}
	for _, resource := range got.Received(t).ResourceSpans {
		for _, s := range resource.ScopeSpans[0].Spans {
			names[event.SpanID(s.SpanId)] = s.Name
		}
	}
	for _, s := range got.Spans {
		name := strings.TrimSpace(strings.Join([]string{s.Process.Service, s.Role.String(), s.Rule.String(), s.Protocol.Version(), names[s.SpanID], s.ErrorType()}, " "))
		wants[name]--
	}
	for name, left := range wants {
		if left != 0 {
			t.Errorf("%s: %d missing (negative: too many)", name, left)
		}
	}
}

// connected holds a golden file to what makes it right: every span but the
// customer's has its parent in the recording, in the same trace, and lies within
// it in time, or is the child of what the customer claimed.
func connected(t *testing.T, spans []*event.Span, roots, claims int) {
	t.Helper()
	byID := map[event.SpanID]*event.Span{}
	for _, s := range spans {
		byID[s.SpanID] = s
	}
	for _, s := range spans {
		if s.ParentID == (event.SpanID{}) {
			roots--
			continue
		}
		if s.ParentID == claimed.SpanID && s.TraceID == claimed.TraceID {
			claims--
			continue
		}
		p := byID[s.ParentID]
		switch {
		case p == nil:
			t.Errorf("%s %s of %s: its parent is not in the recording", s.Role, s.Target, s.Process.Service)
		case p.TraceID != s.TraceID:
			t.Errorf("%s %s of %s: its parent is in another trace", s.Role, s.Target, s.Process.Service)
		case s.Start.Before(p.Start) || s.Role == event.RoleClient && s.Response.End.After(p.Response.End):
			t.Errorf("%s %s of %s: not within its parent", s.Role, s.Target, s.Process.Service)
		}
	}
	if roots != 0 || claims != 0 {
		t.Errorf("%d roots and %d claimed children missing (negative: too many)", roots, claims)
	}
}
