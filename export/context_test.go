package export

import (
	"bytes"
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"weft/internal/event"
	"weft/internal/selfstats"
)

// carried is a trace of which one span came with tracestate and baggage, and
// one from a peer who is not trusted.
func carried() []*event.Span {
	edge, cart := process("edge", 10), process("cart", 11)
	out := spans(0x11,
		hop{1, 0, edge, server, event.ParentUntrusted, "GET", "/", "edge", 200, 0, 9, 0},
		hop{2, 1, edge, client, event.ParentThread, "GET", "/cart", "cart", 200, 1, 8, 0},
		hop{3, 2, cart, server, event.ParentWire, "GET", "/cart", "cart", 200, 2, 7, 0},
	)
	out[0].Link = event.Link{TraceID: traceID(0x99), SpanID: spanID(0x98), Flags: 3}
	for _, s := range out[1:] {
		s.TraceState = "ot=th:8;rv:9b8233f7e3a151,dd=s:1"
		s.Baggage = []event.Member{{Key: "user_id", Value: "Zoë & co <1>"}, {Key: "tenant", Value: ""}}
	}
	return out
}

func TestTraceStateAndLinkOTLP(t *testing.T) {
	clearEnv(t)
	c := testConverter(t)
	const hasRemote, remote = 0x100, 0x200

	all := carried()
	root, call := encodedSpan(t, c, all[0]), encodedSpan(t, c, all[1])
	if root.TraceState != "" || call.TraceState != "ot=th:8;rv:9b8233f7e3a151,dd=s:1" {
		t.Errorf("trace_state %q and %q", root.TraceState, call.TraceState)
	}
	if len(root.ParentSpanId) != 0 || root.Flags != 1|hasRemote {
		t.Errorf("the untrusted peer became a parent: %v", root)
	}
	if len(call.Links) != 0 {
		t.Errorf("links %v", call.Links)
	}
	if len(root.Links) != 1 {
		t.Fatalf("%d links, want 1", len(root.Links))
	}
	link := root.Links[0]
	if got := hex.EncodeToString(link.TraceId) + "-" + hex.EncodeToString(link.SpanId); got != "4bf92f3577b34da60000000000000099-0000000000000098" {
		t.Errorf("link to %s", got)
	}
	if link.Flags != 3|hasRemote|remote {
		t.Errorf("link flags %#x", link.Flags)
	}
	if len(link.Attributes) != 1 || link.Attributes[0].Key != "weft.link.reason" || link.Attributes[0].Value.GetStringValue() != "untrusted" {
		t.Errorf("link attributes %v", link.Attributes)
	}
}

func TestBaggageAttributes(t *testing.T) {
	clearEnv(t)
	s := hop{id: 1, role: server, method: "GET", target: "/a", status: 200}.span(1)
	before := text(testConverter(t).attributes(s))
	s.Baggage = []event.Member{
		{Key: "user_id", Value: "first"},
		{Key: "url.path", Value: "/forged"},
		{Key: "empty", Value: ""},
		{Key: "error.type", Value: "chosen"}, // weft has none to say here
		{Key: "user_id", Value: "last"},
	}
	want := append(slices.Clone(before), "user_id=last", "empty=", "error.type=chosen")
	if got := text(testConverter(t).attributes(s)); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestCarriedBrokenUTF8CanBeSent(t *testing.T) {
	clearEnv(t)
	s := carried()[1]
	s.TraceState = "a=\xff"
	s.Baggage = []event.Member{{Key: "k\xfe", Value: "v\xfd"}}
	const mended = "\uFFFD"
	got := encodedSpan(t, testConverter(t), s)
	last := got.Attributes[len(got.Attributes)-1]
	if got.TraceState != "a="+mended || last.Key != "k"+mended || last.Value.GetStringValue() != "v"+mended {
		t.Errorf("trace_state %q, attribute %v", got.TraceState, last)
	}
}

func TestCarriedJSONGolden(t *testing.T) {
	clearEnv(t)
	var out bytes.Buffer
	js := NewJSON(&out, testConverter(t), selfstats.New())
	for _, s := range carried() {
		js.Span(s)
	}
	if err := js.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	golden(t, "carried.jsonl", out.Bytes())
}

// The tree says where the claimed parent is, and nothing of baggage: it prints
// no attributes, and values are for nobody's terminal.
func TestCarriedTreeGolden(t *testing.T) {
	got := draw(TreeOptions{Verbose: true, Width: 160}, carried())
	golden(t, "tree_carried_verbose.txt", []byte(got))
	if strings.Contains(got, "user_id") || strings.Contains(got, "Zoë") {
		t.Errorf("baggage in the tree:\n%s", got)
	}
}
