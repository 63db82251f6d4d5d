package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"

	"weft/internal/w3c"
)

// TestContextLoad sends many requests at a time, each with a context of its own
// and of any size: none may leave with another's.
func TestContextLoad(t *testing.T) {
	s := newTrio(t)
	target := startReceiver(t, "127.0.0.1:0")
	port := freePort(t)
	express(t, s.g, place{port: port, downstream: "http://" + target.addr + "/leaf", keepAlive: true})
	sink := startSink(t)
	a := startAgent(t, s.g, sink, agentOptions{extra: "baggage: {attributes: [owner]}\n"})
	t.Run("synchronous", func(t *testing.T) {
		rng := seeded(t)
		var queries []query
		for i := range scaled(t, 3000) {
			queries = append(queries, query{id: fmt.Sprintf("own-%d", i)})
			queries[i].lines = ownContext(rng, i, queries[i].id)
		}
		replies, took := sendQueries(t, s.edge, queries)
		t.Logf("%d requests in %v", len(replies), took)
		exported := byID(spansOf(t, sink, 5*len(replies)))
		for i, r := range replies {
			d := r.readWire(t)
			if len(queries[i].lines) > 0 {
				judgeContinued(t, d)
			} else if d.context.tracestate != "" || d.context.baggage != "" {
				t.Errorf("%s: %q left, but nothing had come", d.id, d.context.lines())
			}
			owner, _ := w3c.ParseBaggage(nil, fieldsOf(r.lines)["baggage"]...).Get("owner")
			for _, x := range exported[d.id] {
				if got := x.Attr("owner"); got != owner {
					t.Errorf("%s: owner %q on a span, want %q: %s", d.id, got, owner, &x)
				}
			}
			d.whole(t, exported, d.context.tracestate)
		}
	})
	t.Run("event loop", func(t *testing.T) { eventLoop(t, fmt.Sprintf("127.0.0.1:%d", port), target) })
	if lost := a.losses(); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	a.stop()
}

// ownContext is none, or one that names the request, of every size class.
func ownContext(rng *rand.Rand, i int, id string) []string {
	if i%5 == 0 {
		return nil
	}
	sizes := []int{30, 120, 700, 1900, 6000}
	size := 30 + rng.IntN(sizes[rng.IntN(len(sizes))])
	lines := []string{"traceparent: " + tp(i, "01"), "baggage: owner=" + id + "," + members(1, size)}
	if rng.IntN(2) == 0 {
		lines = append(lines, "tracestate: owner="+id+","+members(1+rng.IntN(8), 30+rng.IntN(80)))
	}
	return lines
}

// eventLoop: where one thread works on several requests, weft does not guess
// whose a call is; then it leaves with nothing rather than with another's.
func eventLoop(t *testing.T, addr string, target *receiver) {
	const clients, alone = 16, 5
	n := scaled(t, 800)
	errs := make([]error, clients)
	var conns [clients]*rawConn
	for c := range conns {
		conns[c] = dialRaw(t, addr, "")
	}
	id := func(i int) string { return fmt.Sprintf("loop-%d", i) }
	send := func(conn *rawConn, i int) error {
		lines := []string{"traceparent: " + tp(i, "00"), "tracestate: owner=" + id(i), "baggage: owner=" + id(i)}
		if _, err := conn.Write(headOf("GET /call?id="+id(i), lines...)); err != nil {
			return err
		}
		_, _, err := conn.answer(http.MethodGet)
		return err
	}
	for i := range alone {
		if err := send(conns[0], i); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for c, conn := range conns {
		wg.Go(func() {
			for i := alone + c; i < n && errs[c] == nil; i += clients {
				errs[c] = send(conn, i)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	own, none := 0, 0
	for i := range n {
		got := contextOf(t, target.take(t, id(i)))
		sent := contextOf(t, headOf("GET /", "traceparent: "+tp(i, "00"), "tracestate: owner="+id(i), "baggage: owner="+id(i)))
		sent.parent.SpanID = got.parent.SpanID
		switch {
		case got == sent:
			own++
		case i >= alone && got.parent.TraceID != "" && got.parent.TraceID != sent.parent.TraceID && got.tracestate == "" && got.baggage == "":
			none++ // a root
		default:
			t.Errorf("%s left with %q", id(i), got.lines())
		}
	}
	t.Logf("%d calls carry their request's context, %d are roots", own, none)
}
