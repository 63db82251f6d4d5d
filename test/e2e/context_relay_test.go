package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"weft/internal/w3c"
	"weft/test/e2e/otlpsink"
	"weft/test/e2e/truth"
)

// edgeConfig makes X-User-Id baggage.
const edgeConfig = "baggage: {set: {user_id: {header: X-User-Id}}, attributes: [user_id]}\n"

// relay is a traced prefork server that sends what it is told, in the pieces it
// is told, on behalf of a request that is read in the pieces it was told.
type relay struct {
	addr   string
	from   string // the client's address; "": any
	target *receiver
	conn   *rawConn
	body   []byte // behind every head that is sent
	serial int
}

// passage is a request through the relay: what came in, and what it sent.
type passage struct {
	id    string
	lines []string // of the inbound head
	head  []byte   // the inbound head, whole
	out   []byte   // the head to send
	body  []byte   // sent behind it
	got   []byte   // both, as the receiver got them
}

// pass sends a request with these lines, and has the relay send a head with the
// lines of own; cut says how, in the lengths of its pieces, next how the request
// after this one is read. Both may be nil.
func (r *relay) pass(t *testing.T, lines, own []string, cut func(head []byte) []int, next []int) passage {
	t.Helper()
	r.serial++
	p := passage{id: fmt.Sprintf("relay-%05d", r.serial), lines: lines, body: r.body}
	own = append([]string{"Connection: close"}, own...)
	if len(r.body) > 0 {
		own = append(own, fmt.Sprintf("Content-Length: %d", len(r.body)))
	}
	p.out = headOf("GET /leaf?id="+p.id+".0", own...)
	pieces := []int{len(p.out) + len(p.body)}
	if cut != nil {
		pieces = cut(p.out)
	}
	order := map[string]any{"to": r.target.addr, "recv": next}
	var send []string
	rest := p.whole(traceContext{})
	for _, n := range pieces {
		send = append(send, base64.StdEncoding.EncodeToString(rest[:n]))
		rest = rest[n:]
	}
	if len(rest) > 0 {
		t.Fatalf("pieces leave %d bytes", len(rest))
	}
	order["send"] = send
	body, err := json.Marshal(order)
	if err != nil {
		t.Fatal(err)
	}
	p.head = headOf("POST /relay?id="+p.id, append(lines, fmt.Sprintf("Content-Length: %06d", len(body)))...)
	if r.conn == nil {
		r.conn = dialRaw(t, r.addr, r.from)
	}
	answer := r.conn.ask(t, append(append([]byte(nil), p.head...), body...))
	came, _, _ := bytes.Cut(answer, []byte("\n"))
	if head, err := base64.StdEncoding.DecodeString(string(came)); err != nil || !bytes.Equal(head, p.head) {
		t.Errorf("%s: the relay received %.300q (%v), sent %.300q", p.id, head, err, p.head)
	}
	p.got = r.target.take(t, p.id+".0")
	return p
}

// hangUp lets the next passage open a connection.
func (r *relay) hangUp() {
	if r.conn != nil {
		_ = r.conn.Close() // everything was answered
	}
	r.conn = nil
}

// length of the inbound head that the next passage with these lines has.
func (r *relay) length(lines []string) int {
	return len(headOf("POST /relay?id=relay-00000", append(lines, "Content-Length: 000000")...))
}

// whole is the request as it must arrive, with that context written into it.
func (p passage) whole(c traceContext) []byte {
	return append(c.injectedInto(p.out), p.body...)
}

// injected is the context that was written into the request, not what the
// program wrote itself.
func (p passage) injected(t *testing.T) traceContext {
	t.Helper()
	return contextOf(t, p.got[len(p.out)-4:len(p.got)-len(p.body)])
}

// outcome is how the outgoing request of a passage must look.
type outcome int

const (
	linked  outcome = iota // child of the inbound request
	lone                   // a root: weft could not follow the inbound request
	refused                // nothing written, but seen
	unread                 // nothing written, not seen either
)

// judge judges a passage by its spans, of which there must be one per side that
// weft could follow. attribute is the user_id that they must have.
func (p passage) judge(t *testing.T, o outcome, own []string, exported map[string][]truth.Span) {
	t.Helper()
	server, client := exported[p.id], exported[p.id+".0"]
	v := judgeLines(p.lines)
	var user string
	v.baggage, user = withUser(p.lines)
	want := traceContext{tracestate: v.tracestate, baggage: v.baggage}
	want.parent.Flags = w3c.FlagSampled | w3c.FlagRandom
	if v.rule == "wire" {
		want.parent.Flags = v.parent.Flags
	}
	sampled := want.parent.Sampled() || o == lone
	servers, clients := 1, 1
	if o == lone || !sampled {
		servers = 0
	}
	if o == unread || !sampled {
		clients = 0
	}
	if len(server) != servers || len(client) != clients {
		t.Errorf("%s: %d server spans, %d client spans; want %d, %d", p.id, len(server), len(client), servers, clients)
		return
	}
	if servers == 1 {
		judgeServer(t, server[0], v)
		if got := server[0].Attr("user_id"); got != user {
			t.Errorf("%s: user_id %q on the span, want %q", p.id, got, user)
		}
	}
	if o == refused || o == unread {
		if !bytes.Equal(p.got, p.whole(traceContext{})) {
			t.Errorf("%s: sent %.300q, arrived %.300q", p.id, p.out, p.got)
		}
		return
	}
	got := p.injected(t)
	if o == lone {
		want = traceContext{parent: truth.Traceparent{TraceID: got.parent.TraceID, Flags: w3c.FlagSampled | w3c.FlagRandom}}
	} else if servers == 1 {
		want.parent.TraceID = server[0].TraceID
	} else {
		want.parent.TraceID = fmt.Sprintf("%x", v.parent.TraceID)
	}
	want.parent.SpanID = got.parent.SpanID
	if len(fieldsOf(own)["tracestate"]) > 0 {
		want.tracestate = ""
	}
	if len(fieldsOf(own)["baggage"]) > 0 {
		want.baggage = ""
	}
	if whole := p.whole(want); !bytes.Equal(p.got, whole) {
		t.Errorf("%s: arrived %.600q, want %.600q", p.id, p.got, whole)
	}
	if clients == 0 {
		return
	}
	parent := ""
	if servers == 1 {
		parent = server[0].SpanID
	}
	if c := client[0]; c.TraceID != got.parent.TraceID || c.SpanID != got.parent.SpanID || c.ParentID != parent || c.Propagation != "injected" {
		t.Errorf("%s: %q on the wire, parent %q: %s", p.id, got.lines(), parent, &c)
	}
}

// withUser is the baggage that edgeConfig makes of header lines, and the value
// of user_id as the attribute says it.
func withUser(lines []string) (text, user string) {
	fields := fieldsOf(lines)
	all := w3c.ParseBaggage(nil, fields["baggage"]...)
	header := ""
	if h := fields["x-user-id"]; len(h) > 0 {
		header = w3c.Escape(trimBlanks(h[0]))
	}
	if header == "" || len(header) > 256 {
		user, _ = all.Get("user_id")
		return all.String(), user
	}
	// The first limit is applied as the lines come, the second as it is added.
	kept := w3c.ParseBaggage(func(key string) bool { return key != "user_id" }, all.String())
	text = kept.String()
	member := "user_id=" + header
	comma := min(len(text), 1)
	if len(kept.Members) == w3c.BaggageMembers || len(text)+comma+len(member) > w3c.BaggageMax {
		return text, ""
	}
	if comma > 0 {
		text += ","
	}
	return text + member, w3c.Unescape(header)
}

func trimBlanks(s string) string { return string(bytes.Trim([]byte(s), " \t")) }

// relayRig is a traced relay and what it needs.
type relayRig struct {
	*relay
	agent  *agent
	sink   *otlpsink.Sink
	server string // a traced rawhttp server, host:port
}

// settle waits for n spans.
func (r relayRig) settle(t *testing.T, n int) map[string][]truth.Span {
	t.Helper()
	return byID(spansOf(t, r.sink, n))
}

// cutAt makes two pieces.
func cutAt(k int) func([]byte) []int {
	return func(head []byte) []int { return []int{k, len(head) - k} }
}

// ones makes n pieces of a byte.
func ones(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = 1
	}
	return out
}

// randomly makes pieces that leave the blank line whole.
func randomly(rng *rand.Rand) func([]byte) []int {
	return func(head []byte) []int { return pieces(rng, len(head), max(1, len(head)/3), 2) }
}
