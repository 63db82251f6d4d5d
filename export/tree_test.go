package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/internal/event"
	"weft/internal/selfstats"
)

const (
	server = event.RoleServer
	client = event.RoleClient
)

// shop is the trace of the README: a Flask shop that asks an Express price
// service and a stock service that fails once.
func shop() []*event.Span {
	curl := process("curl", 4100)
	web, prices, stock := process("web", 4242), process("prices", 4243), process("stock", 4244)
	return spans(0x0e0e4736,
		hop{1, 0, curl, client, event.ParentNone, "GET", "/checkout?cart=7", "localhost:8080", 200, 0, 24.6, 0},
		hop{2, 1, web, server, event.ParentWire, "GET", "/checkout?cart=7", "localhost:8080", 200, 0.4, 24.3, 0},
		hop{3, 2, web, client, event.ParentThread, "GET", "/price/7", "localhost:3000", 200, 1.1, 9.8, 0},
		hop{4, 3, prices, server, event.ParentWire, "GET", "/price/7", "localhost:3000", 200, 1.5, 9.5, 0},
		hop{5, 4, prices, client, event.ParentSole, "GET", "/rates/eur.json?at=today", "rates.internal:9000", 200, 2.2, 8.7, 0},
		hop{6, 2, web, client, event.ParentThread, "POST", "/reserve", "localhost:3001", 503, 10.3, 13.1, 0},
		hop{7, 6, stock, server, event.ParentWire, "POST", "/reserve", "localhost:3001", 503, 10.6, 12.9, 0},
		hop{8, 2, web, client, event.ParentThread, "POST", "/reserve", "localhost:3001", 201, 14.0, 23.7, 0},
		hop{9, 8, stock, server, event.ParentWire, "POST", "/reserve", "localhost:3001", 201, 14.3, 23.5, 0},
	)
}

func draw(o TreeOptions, spans []*event.Span) string {
	p := newTreePrinter(&bytes.Buffer{}, o, selfstats.New())
	return string(p.render(&trace{id: spans[0].TraceID, spans: spans}, false))
}

func TestTreeGolden(t *testing.T) {
	web, api := process("web", 10), process("api", 11)
	odd := spans(0x11,
		// Two spans of a caller that is not traced here.
		hop{2, 0xabc, web, server, event.ParentWire, "GET", "/a", "web", 200, 0, 4, 0},
		hop{3, 0xabc, web, server, event.ParentWire, "GET", "/b", "web", 0, 1, 6, event.EndClosed},
		// A parent of this thread that never ended.
		hop{4, 0xdef, web, client, event.ParentThread, "GET", "*", "api:81", 0, 2, 3, event.EndReset},
		hop{5, 0, api, client, event.ParentAmbiguous, "CONNECT", "proxy.example:443", "proxy.example:443", 200, 3, 5, event.EndUpgraded},
		hop{6, 0, api, server, event.ParentInvalid, "BREW", "/\x1b[31mred\xff世界", "api", 418, 3.5, 3.51, event.EndLost},
		hop{7, 0, nil, server, event.ParentNone, "GET", "http://api/" + strings.Repeat("x", 120) + "?sig=secret", "api", 200, 4, 4.2, 0},
	)
	// A Go shop: a call per rule, gRPC, and what was given up.
	goShop := spans(0x12,
		hop{1, 0, web, server, event.ParentNone, "GET", "/items/7", "shop.example", 200, 0, 20, 0},
		hop{2, 1, web, client, event.ParentContext, "GET", "/rates", "rates.example", 200, 1, 4, 0},
		hop{3, 1, web, client, event.ParentGoroutine, "GET", "/slow", "rates.example:8443", 0, 5, 9, event.EndCancelled},
		hop{4, 1, web, client, event.ParentCreator, "POST", "/stock.v1.Stock/Reserve", "stock:50051", 200, 10, 14, 0},
		hop{5, 4, api, server, event.ParentWire, "POST", "/stock.v1.Stock/Reserve", "stock:50051", 200, 11, 13, 0},
		hop{6, 1, web, client, event.ParentContext, "POST", "/stock.v1.Stock/Watch", "stock:50051", 200, 15, 18, event.EndTimeout},
		hop{7, 1, web, client, event.ParentContext, "POST", "/stock.v1.Stock/Count", "", 200, 18, 19, 0},
	)
	for i, s := range goShop {
		s.Protocol = event.ProtocolHTTP2 | event.ProtocolTLS
		if i >= 3 {
			s.Protocol = event.ProtocolHTTP2 | event.ProtocolGRPC
		}
	}
	goShop[3].Response.GRPC, goShop[4].Response.GRPC, goShop[6].Response.GRPC = event.GRPCUnavailable, event.GRPCUnavailable, event.GRPCOK
	for name, tc := range map[string]struct {
		opts  TreeOptions
		spans []*event.Span
	}{
		"tree_shop.txt":         {TreeOptions{}, shop()},
		"tree_shop_verbose.txt": {TreeOptions{Verbose: true}, shop()},
		"tree_shop_color.txt":   {TreeOptions{Color: ColorAlways, Width: 120}, shop()},
		"tree_shop_narrow.txt":  {TreeOptions{Width: 60}, shop()},
		"tree_odd.txt":          {TreeOptions{}, odd},
		"tree_go.txt":           {TreeOptions{}, goShop},
		"tree_go_verbose.txt":   {TreeOptions{Verbose: true, Width: 130}, goShop},
		"tree_odd_verbose.txt":  {TreeOptions{Verbose: true}, odd},
	} {
		t.Run(name, func(t *testing.T) {
			golden(t, name, []byte(draw(tc.opts, tc.spans)))
		})
	}
}

func TestTreeIndependentOfArrivalOrder(t *testing.T) {
	want := draw(TreeOptions{Verbose: true}, shop())
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		s := shop()
		random.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
		if got := draw(TreeOptions{Verbose: true}, s); got != want {
			t.Fatalf("order changes the drawing:\n%s\nwant\n%s", got, want)
		}
	}
}

func TestTreeLinesFitWidth(t *testing.T) {
	for _, width := range []int{60, 80, 100, 200} {
		// The trace id in the first line is never cut: people copy it.
		for _, line := range strings.Split(draw(TreeOptions{Verbose: true, Width: width}, shop()), "\n")[1:] {
			if n := textWidth(line); n > width {
				t.Errorf("width %d: line of %d columns: %s", width, n, line)
			}
		}
	}
}

// Every span is drawn once, whatever the parent ids claim.
func TestTreeCyclesAndRepeatedIDs(t *testing.T) {
	web := process("web", 10)
	s := spans(3,
		hop{1, 3, web, server, event.ParentWire, "GET", "/one", "", 200, 0, 5, 0},
		hop{2, 1, web, client, event.ParentThread, "GET", "/two", "", 200, 1, 4, 0},
		hop{3, 2, web, server, event.ParentWire, "GET", "/three", "", 200, 2, 3, 0},
		hop{3, 2, web, server, event.ParentWire, "GET", "/again", "", 200, 2, 3, 0},
		hop{5, 5, web, server, event.ParentWire, "GET", "/self", "", 200, 2, 3, 0},
	)
	got := draw(TreeOptions{}, s)
	for _, path := range []string{"/one", "/two", "/three", "/again", "/self"} {
		if n := strings.Count(got, path+" "); n != 1 {
			t.Errorf("%s drawn %d times:\n%s", path, n, got)
		}
	}
}

func TestTreeAbbreviated(t *testing.T) {
	web := process("web", 10)
	hops := []hop{{1, 0, web, server, event.ParentNone, "GET", "/all", "", 200, 0, 1000, 0}}
	for i := range uint64(499) {
		status := 200
		if i == 498 {
			status = 500
		}
		hops = append(hops, hop{i + 2, 1, web, client, event.ParentThread, "GET", fmt.Sprint("/item/", i), "", status, float64(i), float64(i) + 2, 0})
	}
	lines := strings.Split(strings.TrimSpace(draw(TreeOptions{}, spans(4, hops...))), "\n")
	if len(lines) != 1+maxTreeRows+1 {
		t.Errorf("%d lines, want header, %d spans and the summary", len(lines), maxTreeRows)
	}
	if got, want := lines[len(lines)-1], "… 300 more spans, 1 error among them"; got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
	if !strings.Contains(lines[0], "500 spans") || !strings.Contains(lines[0], "1 error") {
		t.Errorf("header %q counts what is drawn, not what there is", lines[0])
	}
}

func TestTreeDeepChain(t *testing.T) {
	var hops []hop
	web := process("web", 10)
	for i := range uint64(maxTraceSpans) {
		hops = append(hops, hop{i + 1, i, web, client, event.ParentThread, "GET", "/deep", "", 200, float64(i), 9999, 0})
	}
	for _, line := range strings.Split(draw(TreeOptions{}, spans(5, hops...)), "\n") {
		if textWidth(line) > DefaultWidth {
			t.Fatalf("line of %d columns: %s", textWidth(line), line)
		}
	}
}

// clock drives a printer without waiting.
type clock struct{ now time.Time }

func testPrinter(t *testing.T, stats *selfstats.Stats) (*treePrinter, *bytes.Buffer, *clock) {
	t.Helper()
	out, c := &bytes.Buffer{}, &clock{epoch}
	p := newTreePrinter(out, TreeOptions{}, stats)
	p.now = func() time.Time { return c.now }
	return p, out, c
}

func (c *clock) pass(p *treePrinter, d time.Duration) {
	c.now = c.now.Add(d)
	p.tick(c.now)
}

func TestTreeWaitsForSettle(t *testing.T) {
	p, out, c := testPrinter(t, selfstats.New())
	s := shop()
	for _, span := range s[1:] {
		p.add(span)
		c.pass(p, 200*time.Millisecond)
	}
	if out.Len() > 0 {
		t.Fatalf("printed while spans still came:\n%s", out)
	}
	p.add(s[0])
	c.pass(p, DefaultSettle)
	if !strings.Contains(out.String(), "9 spans") {
		t.Fatalf("not printed after the settle time:\n%s", out)
	}
}

// A parent found by thread is being watched, so its trace waits for it.
func TestTreeWaitsForOpenParent(t *testing.T) {
	p, out, c := testPrinter(t, selfstats.New())
	s := shop()
	p.add(s[2]) // web → prices; web's own request is not finished
	c.pass(p, 10*time.Second)
	if out.Len() > 0 {
		t.Fatalf("printed before the request it belongs to ended:\n%s", out)
	}
	p.add(s[1])
	c.pass(p, DefaultSettle)
	if !strings.Contains(out.String(), "2 spans") {
		t.Fatalf("not printed together:\n%s", out)
	}

	out.Reset()
	late := shop()[5]
	late.ParentID = spanID(0x77) // never ends
	p.add(late)
	c.pass(p, DefaultHold)
	if !strings.Contains(out.String(), "continued") || !strings.Contains(out.String(), "0000000000000077 (request not finished or lost)") {
		t.Fatalf("held for ever, or not marked:\n%s", out)
	}
}

// A goroutine that outlives the request it was started for calls when the request's
// trace is on the screen already: that part is not held for what will not come.
func TestTreeLateCall(t *testing.T) {
	for rule, wait := range map[event.ParentRule]bool{
		event.ParentContext: false, event.ParentCreator: false, event.ParentGoroutine: true, event.ParentThread: true,
	} {
		p, out, c := testPrinter(t, selfstats.New())
		web := process("web", 10)
		p.add(hop{1, 0, web, server, event.ParentNone, "GET", "/", "web", 202, 0, 1, 0}.span(1))
		c.pass(p, DefaultSettle)
		if !strings.Contains(out.String(), "1 span") {
			t.Fatalf("the request was not printed:\n%s", out)
		}
		out.Reset()
		p.add(hop{2, 1, web, client, rule, "GET", "/late", "api", 200, 900, 901, 0}.span(1))
		c.pass(p, DefaultSettle)
		if waits := out.Len() == 0; waits != wait {
			t.Errorf("%s: waits %v, want %v\n%s", rule, waits, wait, out)
		}
		if !wait && !strings.Contains(out.String(), "0000000000000001 (printed before, or lost)") {
			t.Errorf("%s: %s", rule, out)
		}
		// Without what it belongs to on the screen it waits, whatever the rule.
		out.Reset()
		p.add(hop{2, 1, web, client, rule, "GET", "/first", "api", 200, 0, 1, 0}.span(2))
		c.pass(p, DefaultSettle)
		if out.Len() > 0 {
			t.Errorf("%s: printed before the request it belongs to ended:\n%s", rule, out)
		}
	}
}

func TestTreeTooManyTracesPrintsOldest(t *testing.T) {
	stats := selfstats.New()
	p, out, c := testPrinter(t, stats)
	for i := range uint64(maxTraces + 10) {
		c.now = c.now.Add(time.Microsecond)
		p.add(hop{id: 1, process: nil, role: server, method: "GET", target: fmt.Sprintf("/n%d.", i)}.span(i + 1))
	}
	if got := strings.Count(out.String(), "trace "); got != 10 {
		t.Errorf("%d traces printed early, want 10", got)
	}
	if !strings.Contains(out.String(), "/n0.") {
		t.Error("the oldest was not the first to go")
	}
	if err := p.finish(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), "trace "); got != maxTraces+10 {
		t.Errorf("%d traces printed in all, want %d", got, maxTraces+10)
	}
}

func TestTreeTooManySpansCounted(t *testing.T) {
	stats := selfstats.New()
	p, _, _ := testPrinter(t, stats)
	for i := range uint64(maxTraceSpans + 7) {
		p.add(hop{id: i + 1, role: server, method: "GET", target: "/"}.span(1))
	}
	if got := lost(t, stats, "tree", "trace_spans_full"); got != 7 {
		t.Errorf("%d spans counted as dropped, want 7", got)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestTreeWriteErrorCounted(t *testing.T) {
	stats := selfstats.New()
	tree := NewTree(brokenPipe{}, TreeOptions{}, stats)
	for _, s := range shop() {
		tree.Span(s)
	}
	if err := tree.Close(context.Background()); err == nil || !strings.Contains(err.Error(), "broken pipe") {
		t.Errorf("Close: %v", err)
	}
	if got := lost(t, stats, "tree", "write_failed"); got != 9 {
		t.Errorf("%d spans counted, want 9", got)
	}
}

// stuck is a printer whose reader does not read.
type stuck struct{ release chan struct{} }

func (s stuck) add(*event.Span) { <-s.release }
func (s stuck) tick(time.Time)  {}
func (s stuck) finish() error   { return nil }

func TestSlowReaderNeverBlocksAndIsCounted(t *testing.T) {
	stats := selfstats.New()
	p := stuck{make(chan struct{})}
	w := startWorker("json", 100, time.Hour, p, stats)
	span := shop()[0]
	w.Span(span)
	eventually(t, "the worker is stuck with the first", func() bool { return len(w.spans) == 0 })
	for range 130 {
		w.Span(span)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := w.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "100 spans") {
		t.Errorf("Close: %v", err)
	}
	if full, left := lost(t, stats, "json", "queue_full"), lost(t, stats, "json", "shutdown"); full != 30 || left != 100 {
		t.Errorf("queue_full %d, want 30; shutdown %d, want 100", full, left)
	}
	close(p.release)
	<-w.done
}

// Run with -race: many traces at once through the real goroutine.
func TestTreeConcurrent(t *testing.T) {
	var out bytes.Buffer
	stats := selfstats.New()
	tree := NewTree(&out, TreeOptions{Settle: time.Millisecond}, stats)
	var wg sync.WaitGroup
	for g := range uint64(8) {
		wg.Go(func() {
			for i := range uint64(50) {
				for _, s := range shop() {
					s.TraceID = traceID(g<<16 | i)
					tree.Span(s)
				}
			}
		})
	}
	wg.Wait()
	if err := tree.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), "← ") + strings.Count(out.String(), "→ "); got != 8*50*9 {
		t.Errorf("%d spans drawn, want %d", got, 8*50*9)
	}
}
