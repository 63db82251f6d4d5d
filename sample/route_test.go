package sample

import (
	"net/netip"
	"testing"
	"time"

	"weft/internal/event"
	"weft/internal/selfstats"
)

func testRoutes(most, perMinute int) (*routes, selfstats.Counter) {
	displaced := selfstats.New().Dropped("test", "displaced")
	return newRoutes(most, 0.9, perMinute, displaced), displaced
}

func TestRouteKey(t *testing.T) {
	r, _ := testRoutes(10, 1)
	client := func(s *event.Span) { s.Role = event.RoleClient }
	host := func(h string) func(*event.Span) { return func(s *event.Span) { s.Host = h } }
	method := func(m string) func(*event.Span) { return func(s *event.Span) { s.Method = m } }
	service := func(n string) func(*event.Span) {
		return func(s *event.Span) { s.Process = &event.Process{Service: n} }
	}
	remote := func(a string) func(*event.Span) {
		return func(s *event.Span) { s.Host, s.Remote = "", netip.MustParseAddrPort(a) }
	}
	for _, tc := range []struct {
		same bool
		a, b *event.Span
	}{
		{true, span(1, "/cart"), span(2, "/cart", took(time.Hour), status(500))},
		{true, span(1, "/cart?id=1"), span(1, "/cart?id=2#x")},
		{true, span(1, "/cart/17/items"), span(1, "/cart/18/items")},
		{true, span(1, "/u/6ba7b810-9dad-11d1-80b4-00c04fd430c8"), span(1, "/u/9")},
		{true, span(1, "/f/a%20b"), span(1, "/f/c%2fd")},
		{true, span(1, "/f/averyverylongnameofafilethatnobodywouldcalla"), span(1, "/f/anotherverylongnameofafilethatnobodywouldcall")},
		{true, span(1, "/a/b/c/d/e/f/g/h"), span(1, "/a/b/c/d/e/f/x")},
		{true, span(1, "http://shop/cart"), span(1, "/cart")},
		{true, span(1, "/cart", host("a")), span(1, "/cart", host("b"))}, // a server's own names
		{true, span(1, "/wp-admin", status(404)), span(1, "/.env", status(404))},
		{false, span(1, "/cart"), span(1, "/carts")},
		{false, span(1, "/cart"), span(1, "/cart/items")},
		{false, span(1, "/ab/c"), span(1, "/a/bc")},
		{false, span(1, "/v1/cart"), span(1, "/v2/cart")},
		{false, span(1, "/cart"), span(1, "/cart", method("POST"))},
		{false, span(1, "/cart"), span(1, "/cart", service("other"))},
		{false, span(1, "/cart"), span(1, "/cart", client)},
		{false, span(1, "/cart"), span(1, "/cart", func(s *event.Span) { s.Role = event.RoleUnknown })},
		{false, span(1, "/cart", client, host("a")), span(1, "/cart", client, host("b"))},
		{false, span(1, "/cart", client, remote("10.0.0.1:80")), span(1, "/cart", client, remote("10.0.0.2:80"))},
		{false, span(1, "/cart", status(404)), span(1, "/cart")},
		{true, span(1, "*", method("OPTIONS")), span(1, "", method("OPTIONS"))},
		{true, span(1, "o:443", method("CONNECT")), span(1, "p:443", method("CONNECT"))},
		{true, span(1, "/a", func(s *event.Span) { s.Process = nil }), span(1, "/a", func(s *event.Span) { s.Process = nil })},
	} {
		if same := r.key(tc.a) == r.key(tc.b); same != tc.same {
			t.Errorf("%s %s and %s %s: one route: %v", tc.a.Method, tc.a.Target, tc.b.Method, tc.b.Target, same)
		}
	}
}

func TestRareCountsTheLastMinute(t *testing.T) {
	r, _ := testRoutes(10, 2)
	at := func(now time.Duration) bool {
		_, rare := r.see(1, time.Millisecond, now)
		return rare
	}
	for i, step := range []struct {
		now  time.Duration
		rare bool
	}{
		{0, true}, {time.Second, true}, {2 * time.Second, false}, {30 * time.Second, false},
		{61 * time.Second, true}, // only the one at 30 s is left
		{62 * time.Second, false},
		{95 * time.Second, false},
		{10 * time.Minute, true}, {10 * time.Minute, true}, {10 * time.Minute, false},
	} {
		if got := at(step.now); got != step.rare {
			t.Errorf("sighting %d at %v: rare %v", i+1, step.now, got)
		}
	}
}

func TestRoutesBounded(t *testing.T) {
	r, displaced := testRoutes(3, 1)
	see := func(key uint64, now time.Duration) bool {
		_, rare := r.see(key, time.Millisecond, now)
		return rare
	}
	for key := range uint64(3) {
		if !see(key, 0) {
			t.Errorf("route %d is new and not rare", key)
		}
	}
	see(0, time.Second)
	// Room is made by the one unused the longest. It was used within the minute,
	// so from now on a new route may be an old one.
	if see(3, 2*time.Second) || r.known[1] != nil || r.known[0] == nil || len(r.known) != 3 {
		t.Errorf("known %v", r.known)
	}
	if see(1, 3*time.Second) {
		t.Error("a route that had to be forgotten came back as rare")
	}
	if v := selfstats.Value(displaced); v != 2 {
		t.Errorf("%v counted", v)
	}
	// Two minutes later its count covers a minute again.
	if !see(1, 2*time.Minute) || !see(3, 2*time.Minute) {
		t.Error("not rare after a minute without")
	}
	// What nobody used for a minute makes room without doubt.
	if !see(9, 10*time.Minute) || selfstats.Value(displaced) != 2 {
		t.Error("a new route is in doubt though nothing in use was forgotten")
	}
	// Three more need the room of all: that of 9 too, which is in use.
	for key := uint64(20); key < 23; key++ {
		see(key, 10*time.Minute+time.Second)
	}
	if v := selfstats.Value(displaced); v != 3 {
		t.Errorf("%v counted, want 3", v)
	}
	see(9, 11*time.Minute)
	// A new route starts with no durations of the one before.
	if h := r.known[9].durations; h.sum != 1 {
		t.Errorf("%v samples inherited", h.sum)
	}
}

func TestDecisionsRemembered(t *testing.T) {
	c := newDecisions(64)
	for i := range uint64(64) {
		c.put(traceID(i), decide(keptShare, i))
	}
	found := 0
	for i := range uint64(64) {
		if d, ok := c.get(traceID(i)); ok {
			found++
			if d.reason() != keptShare || d.threshold() != i {
				t.Errorf("decision %d: %v %x", i, d.reason(), d.threshold())
			}
		}
	}
	if found < 40 { // sets fill unevenly
		t.Errorf("%d of 64 remembered", found)
	}
	if _, ok := c.get(traceID(1000)); ok {
		t.Error("a decision never made")
	}

	one := newDecisions(1)
	for i := range uint64(ways) {
		one.put(traceID(i), decide(dropped, 0))
	}
	one.put(traceID(3), decide(keptError, 0)) // replaced, not added
	if _, ok := one.get(traceID(0)); !ok {
		t.Fatal("forgotten while there is room")
	}
	one.put(traceID(100), decide(dropped, 0)) // pushes out 1, the one unused the longest
	for id, want := range map[uint64]reason{0: dropped, 1: undecided, 2: dropped, 3: keptError, 100: dropped} {
		if d, _ := one.get(traceID(id)); d.reason() != want {
			t.Errorf("trace %d: %v, want %v", id, d.reason(), want)
		}
	}
}
