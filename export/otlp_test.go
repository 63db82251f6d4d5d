package export

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	"weft/internal/event"
	"weft/internal/selfstats"
)

var protocols = []string{ProtocolGRPC, ProtocolHTTP}

// clearEnv keeps the OTEL_ variables of whoever runs the test out of it.
func clearEnv(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME",
		"OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
		"OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS",
	} {
		t.Setenv(name, "")
	}
	for _, suffix := range []string{
		"ENDPOINT", "PROTOCOL", "HEADERS", "CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY", "INSECURE", "TIMEOUT", "COMPRESSION",
	} {
		t.Setenv("OTEL_EXPORTER_OTLP_"+suffix, "")
		t.Setenv("OTEL_EXPORTER_OTLP_TRACES_"+suffix, "")
	}
}

// checkLeaks is called before a test starts anything: cleanups run last first,
// so the check comes after the receiver was stopped.
func checkLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// journal is a log to look into.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) lines() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Split(strings.TrimSpace(j.b.String()), "\n")
}

func (j *journal) count(what string) int {
	n := 0
	for _, l := range j.lines() {
		if strings.Contains(l, what) {
			n++
		}
	}
	return n
}

func startOTLP(t *testing.T, o OTLPOptions) (*OTLP, *selfstats.Stats, *journal) {
	t.Helper()
	if o.Delay == 0 {
		o.Delay = 5 * time.Millisecond
	}
	settings, err := ResolveOTLP(o)
	if err != nil {
		t.Fatal(err)
	}
	stats, log := selfstats.New(), &journal{}
	exp, err := NewOTLP(settings, testConverter(t), stats, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return exp, stats, log
}

func closeOTLP(t *testing.T, exp *OTLP) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := exp.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func TestOTLPDelivers(t *testing.T) {
	for _, protocol := range protocols {
		for _, compression := range []string{"", "gzip"} {
			t.Run(protocol+" "+compression, func(t *testing.T) {
				checkLeaks(t)
				clearEnv(t)
				r := &receiver{}
				exp, stats, log := startOTLP(t, OTLPOptions{
					Endpoint: r.serve(t, protocol, nil), Protocol: protocol, Compression: compression,
					Headers: map[string]string{"X-Api-Key": "secret"},
				})
				sent := shop()
				for _, s := range sent {
					exp.Span(s)
				}
				closeOTLP(t, exp)

				got := r.spans()
				if len(got) != len(sent) {
					t.Fatalf("%d spans arrived of %d", len(got), len(sent))
				}
				want := map[string]bool{}
				for _, s := range sent {
					want[string(s.TraceID[:])+string(s.SpanID[:])+string(parentOf(s.ParentID))] = true
				}
				for _, s := range got {
					key := string(s.TraceId) + string(s.SpanId) + string(s.ParentSpanId)
					if !want[key] {
						t.Errorf("ids %x %x %x were never sent, or twice", s.TraceId, s.SpanId, s.ParentSpanId)
					}
					delete(want, key)
				}
				if h := r.lastHeader("x-api-key"); len(h) != 1 || h[0] != "secret" {
					t.Errorf("header %q", h)
				}
				if protocol == ProtocolHTTP {
					encoding := r.lastHeader("content-encoding")
					if gz := len(encoding) == 1 && encoding[0] == "gzip"; gz != (compression == "gzip") {
						t.Errorf("content-encoding %q with compression %q", encoding, compression)
					}
					if r.path != "/v1/traces" {
						t.Errorf("path %q", r.path)
					}
				}
				if rows, _ := stats.Summary(); len(rows) != 0 {
					t.Errorf("lost: %v", rows)
				}
				if l := log.lines(); len(l) != 1 || l[0] != "" {
					t.Errorf("logged without need: %q", l)
				}
			})
		}
	}
}

func parentOf(id [8]byte) []byte {
	if id == [8]byte{} {
		return nil
	}
	return id[:]
}

// A gRPC server is not shown whether a message came compressed, so this
// measures the wire.
func TestOTLPGRPCCompresses(t *testing.T) {
	clearEnv(t)
	size := map[string]int64{}
	for _, compression := range []string{"gzip", "none", ""} {
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l := &countingListener{Listener: inner}
		r := &receiver{}
		r.serveGRPC(t, l, nil)
		exp, _, _ := startOTLP(t, OTLPOptions{
			Endpoint: "http://" + l.Addr().String(), Compression: compression, Delay: time.Minute,
		})
		for range 50 {
			for _, s := range shop() {
				exp.Span(s)
			}
		}
		closeOTLP(t, exp)
		if len(r.spans()) != 450 {
			t.Fatalf("%d spans", len(r.spans()))
		}
		size[compression] = l.read()
	}
	if size["gzip"]*4 > size["none"] || size["gzip"]*4 > size[""] {
		t.Errorf("gzip sent %d bytes, none %d, the default %d", size["gzip"], size["none"], size[""])
	}
}

func TestOTLPMutualTLS(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			checkLeaks(t)
			clearEnv(t)
			ca := newAuthority(t)
			r := &receiver{}
			endpoint := r.serve(t, protocol, ca.server)
			// The environment wins over a configuration that is all wrong.
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
			t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
			t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.ca)
			t.Setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", ca.clientPEM)
			t.Setenv("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", ca.keyPEM)
			t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc, x-scope=a")
			exp, _, _ := startOTLP(t, OTLPOptions{
				Endpoint: "http://127.0.0.1:1", Protocol: "grpc", CAFile: ca.gone, CertFile: ca.gone, KeyFile: ca.gone,
				Headers: map[string]string{"Authorization": "other"},
			})
			exp.Span(shop()[0])
			closeOTLP(t, exp)
			if n := len(r.spans()); n != 1 {
				t.Fatalf("%d spans arrived", n)
			}
			if h := r.lastHeader("authorization"); len(h) != 1 || h[0] != "Bearer abc" {
				t.Errorf("authorization %q", h)
			}
		})
	}
}

func TestOTLPWrongAuthorityIsKeptAndLogged(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			clearEnv(t)
			ca := newAuthority(t)
			r := &receiver{}
			exp, stats, log := startOTLP(t, OTLPOptions{
				Endpoint: r.serve(t, protocol, ca.server), Protocol: protocol, CAFile: ca.unrelated,
			})
			exp.Span(shop()[0])
			eventually(t, "the failure is logged", func() bool { return log.count("level=WARN") == 1 })
			if log.count("certificate") != 1 {
				t.Errorf("the log does not say why: %q", log.lines())
			}
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			if err := exp.Close(ctx); err == nil {
				t.Error("Close hides that a span was not sent")
			}
			if n := lost(t, stats, "otlp", "shutdown"); n != 1 {
				t.Errorf("%d counted", n)
			}
		})
	}
}

func TestOTLPRetriesAndLosesNothing(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			checkLeaks(t)
			clearEnv(t)
			r := &receiver{answer: func(n int) reply {
				if n <= 2 {
					return reply{code: codes.Unavailable, status: 503}
				}
				return reply{}
			}}
			exp, stats, log := startOTLP(t, OTLPOptions{Endpoint: r.serve(t, protocol, nil), Protocol: protocol})
			for _, s := range shop() {
				exp.Span(s)
			}
			eventually(t, "all spans arrive", func() bool { return len(r.spans()) == 9 })
			closeOTLP(t, exp)
			if rows, _ := stats.Summary(); len(rows) != 0 {
				t.Errorf("lost: %v", rows)
			}
			if r.attempts() < 3 || log.count("level=WARN") != 1 || log.count("receiver is back") != 1 {
				t.Errorf("%d attempts, log %q", r.attempts(), log.lines())
			}
		})
	}
}

func TestOTLPHonoursRetryAfter(t *testing.T) {
	clearEnv(t)
	r := &receiver{}
	var first time.Time
	r.answer = func(n int) reply {
		if n == 1 {
			first = time.Now()
			return reply{status: 429, retry: "2"}
		}
		if wait := time.Since(first); wait < 2*time.Second {
			t.Errorf("came back after %v, asked for 2 s", wait)
		}
		return reply{}
	}
	exp, _, _ := startOTLP(t, OTLPOptions{Endpoint: r.serve(t, ProtocolHTTP, nil), Protocol: ProtocolHTTP})
	exp.Span(shop()[0])
	eventually(t, "the span arrives", func() bool { return len(r.spans()) == 1 })
	closeOTLP(t, exp)
}

func TestOTLPRefusedForGood(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			clearEnv(t)
			r := &receiver{answer: func(n int) reply {
				if n <= 2 {
					return reply{code: codes.Unauthenticated, status: 401}
				}
				return reply{}
			}}
			exp, stats, log := startOTLP(t, OTLPOptions{Endpoint: r.serve(t, protocol, nil), Protocol: protocol})
			for n := range 3 {
				exp.Span(shop()[n])
				eventually(t, "an attempt", func() bool { return r.attempts() == n+1 })
			}
			closeOTLP(t, exp)
			if n := lost(t, stats, "otlp", "rejected"); n != 2 || len(r.spans()) != 1 {
				t.Errorf("%d counted, %d arrived", n, len(r.spans()))
			}
			if log.count("level=ERROR") != 1 {
				t.Errorf("not logged once: %q", log.lines())
			}
		})
	}
}

func TestOTLPPartialSuccess(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			clearEnv(t)
			r := &receiver{answer: func(int) reply { return reply{rejected: 4} }}
			exp, stats, log := startOTLP(t, OTLPOptions{Endpoint: r.serve(t, protocol, nil), Protocol: protocol, Delay: time.Minute})
			for _, s := range shop() {
				exp.Span(s)
			}
			closeOTLP(t, exp)
			if n := lost(t, stats, "otlp", "rejected"); n != 4 || r.attempts() != 1 {
				t.Errorf("%d counted after %d attempts", n, r.attempts())
			}
			if log.count("too) long") != 1 {
				t.Errorf("the receiver's reason is not logged: %q", log.lines())
			}
		})
	}
}

// The receiver is away, then comes: the bound holds, what fits arrives, what
// does not is counted, and each change is logged once.
func TestOTLPReceiverAway(t *testing.T) {
	checkLeaks(t)
	clearEnv(t)
	address, listen := awayAddress(t)
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "30")
	exp, stats, log := startOTLP(t, OTLPOptions{Endpoint: "http://" + address, QueueSize: 5, BatchSize: 5})
	for i := range 250 {
		exp.Span(hop{id: uint64(i + 1), role: server, method: "GET", target: "/"}.span(1))
		if i == 50 {
			eventually(t, "the failure is logged", func() bool { return log.count("level=WARN") == 1 })
		}
	}
	if n := lost(t, stats, "otlp", "queue_full"); n != 150 {
		t.Errorf("%d dropped, want 150: the bound is 100 in all", n)
	}

	r := &receiver{}
	r.serveGRPC(t, listen(), nil)
	eventually(t, "kept spans arrive", func() bool { return len(r.spans()) == 100 })
	for i, s := range r.spans() {
		if s.SpanId[7] != byte(i+1) {
			t.Fatalf("span %d is %x: not in order", i, s.SpanId)
		}
	}
	closeOTLP(t, exp)
	if log.count("level=WARN") != 1 || log.count("receiver is back") != 1 {
		t.Errorf("log %q", log.lines())
	}
}

func TestOTLPCloseGivesUpInTimeAndCounts(t *testing.T) {
	for _, protocol := range protocols {
		for name, answer := range map[string]func(int) reply{
			"receiver hangs":       func(int) reply { return reply{hang: 20 * time.Second} },
			"receiver unavailable": func(int) reply { return reply{code: codes.Unavailable, status: 503} },
		} {
			t.Run(protocol+" "+name, func(t *testing.T) {
				clearEnv(t)
				r := &receiver{answer: answer}
				exp, stats, _ := startOTLP(t, OTLPOptions{Endpoint: r.serve(t, protocol, nil), Protocol: protocol})
				for _, s := range shop() {
					exp.Span(s)
				}
				eventually(t, "an attempt", func() bool { return r.attempts() > 0 })
				ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
				defer cancel()
				began := time.Now()
				if err := exp.Close(ctx); err == nil || !strings.Contains(err.Error(), "9 spans") {
					t.Errorf("Close: %v", err)
				}
				if took := time.Since(began); took > 8*time.Second {
					t.Errorf("Close took %v with 100 ms to go", took)
				}
				if n := lost(t, stats, "otlp", "shutdown"); n != 9 {
					t.Errorf("%d counted, want 9", n)
				}
				exp.Span(shop()[0])
				if n := lost(t, stats, "otlp", "after_close"); n != 1 {
					t.Errorf("a span after Close counted %d times", n)
				}
				if err := exp.Close(ctx); err != nil {
					t.Errorf("second Close: %v", err)
				}
			})
		}
	}
}

func TestOTLPBatchesFillUp(t *testing.T) {
	clearEnv(t)
	r := &receiver{}
	exp, _, _ := startOTLP(t, OTLPOptions{Endpoint: r.serve(t, ProtocolGRPC, nil), BatchSize: 10, Delay: time.Minute})
	for i := range 10 {
		exp.Span(hop{id: uint64(i + 1), role: server, method: "GET", target: "/"}.span(1))
	}
	eventually(t, "a full batch goes without waiting", func() bool { return len(r.spans()) == 10 })
	exp.Span(shop()[0])
	time.Sleep(20 * time.Millisecond)
	if n := len(r.spans()); n != 10 {
		t.Errorf("a lone span did not wait for its delay: %d arrived", n)
	}
	closeOTLP(t, exp)
	if n := len(r.spans()); n != 11 {
		t.Errorf("%d arrived after Close, want 11", n)
	}
}

func BenchmarkOTLPSpan(b *testing.B) {
	settings := &OTLPSettings{Protocol: ProtocolGRPC, Target: "127.0.0.1:1", QueueSize: 1 << 20, BatchSize: 512, Delay: time.Hour, Timeout: time.Second}
	convert, err := NewConverter(ConverterOptions{HostName: "h"})
	if err != nil {
		b.Fatal(err)
	}
	exp, err := NewOTLP(settings, convert, selfstats.New(), quiet())
	if err != nil {
		b.Fatal(err)
	}
	s := shop()[0]
	b.ReportAllocs()
	for b.Loop() {
		exp.Span(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = exp.Close(ctx)
}

// BenchmarkEncode encodes full batches of four processes; the time is that of
// one span.
func BenchmarkEncode(b *testing.B) {
	convert, err := NewConverter(ConverterOptions{HostName: "h"})
	if err != nil {
		b.Fatal(err)
	}
	var batch []*event.Span
	for example := shop(); len(batch) < DefaultBatchSize; {
		batch = append(batch, example...)
	}
	e := NewEncoder(convert)
	b.ReportAllocs()
	for n := 0; n < b.N; n += len(batch) {
		e.ResourceSpans(batch)
	}
}
