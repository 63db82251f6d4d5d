package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weft/test/e2e/truth"
	"weft/test/e2e/variant"
)

// grpcConcurrency is how many streams one connection carries at a time.
const grpcConcurrency = 100

// grpcPattern is a way of calling in test/apps/gogrpc.
type grpcPattern struct {
	name     string
	inbound  string // Unary, Client, Server, Bidi: how the relay is called; "": Unary
	calls    []string
	expect   truth.Expect
	rules    []string
	optional bool
	creator  bool   // the evidence is g.parentGoid, which Go has from 1.21 on
	status   string // of the client span; "": OK
	own      bool
	heavy    int // requests are fewer by this
}

var grpcPatterns = []grpcPattern{
	{name: "none", calls: []string{}},
	{name: "unary", rules: byContext},
	{name: "client", rules: byContext},
	{name: "server", rules: byContext},
	{name: "bidi", rules: byContext},
	{name: "unary", inbound: "Client", rules: byContext},
	{name: "unary", inbound: "Server", rules: byContext},
	{name: "bidi", inbound: "Bidi", rules: byContext},
	{name: "long", rules: byContext, heavy: 20},
	{name: "background", rules: []string{"goroutine"}},
	{name: "go", rules: []string{"creator"}, creator: true},
	{name: "goctx", rules: byContext},
	{name: "pool", rules: byContext},
	{name: "pool-background", expect: truth.Root},
	{name: "errgroup", calls: []string{"a", "b", "c"}, rules: byContext},
	{name: "own", expect: truth.Own, own: true},
	{name: "error", rules: byContext, status: "NOT_FOUND"},
	// It may end before it was sent.
	{name: "deadline", rules: byContext, optional: true, status: "DEADLINE_EXCEEDED", heavy: 4},
	{name: "cancel", rules: byContext, status: "CANCELLED"},
}

func (p grpcPattern) title() string {
	if p.inbound == "" {
		return p.name
	}
	return strings.ToLower(p.inbound) + "-" + p.name
}

// grpcMessage is what the relay is told; see test/apps/gogrpc.
type grpcMessage struct {
	ID      string `json:"id"`
	Pattern string `json:"pattern"`
	Own     string `json:"own,omitempty"`
}

// grpcRig is a chain of gogrpc and a driver that is not traced.
type grpcRig struct {
	*goRig
	conn *grpc.ClientConn
	mids []*goRig // further relays, the one that calls the back end last
}

type grpcOptions struct {
	tls    bool
	http   bool // served through net/http
	relays int  // 1 or more
}

func startGRPCRig(t *testing.T, h *goHost, bin string, v goVersion, o grpcOptions) *grpcRig {
	t.Helper()
	r := &grpcRig{goRig: &goRig{goHost: h, t: t, version: v, protocol: "grpc"}}
	var flags []string
	if o.tls {
		flags = append(flags, "-tls")
	}
	if o.http {
		flags = append(flags, "-http")
	}
	start := func(role, next string) (*program, string, string) {
		addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
		control := filepath.Join(t.TempDir(), "control")
		argv := append([]string{h.executable(t, bin), "-role", role, "-listen", addr, "-next", next, "-control", control}, flags...)
		p := r.g.start(role, launch{argv: argv}, nil)
		p.listens(addr)
		return p, addr, control
	}
	var next string
	r.back, next, r.control = start("back", "")
	for range o.relays {
		var control string
		r.relay, next, control = start("relay", next)
		r.mids = append(r.mids, &goRig{goHost: h, t: t, control: control, relay: r.relay})
	}
	creds := insecure.NewCredentials()
	if o.tls {
		creds = credentials.NewTLS(goTLS())
	}
	var err error
	if r.conn, err = grpc.NewClient(next, grpc.WithTransportCredentials(creds)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.conn.Close() })
	return r
}

// call makes one call to the first relay.
func (r *grpcRig) call(ctx context.Context, inbound string, m grpcMessage) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	in, out := wrapperspb.String(string(text)), new(wrapperspb.StringValue)
	if inbound == "" {
		inbound = "Unary"
	}
	method := "/weft.test.Matrix/" + inbound
	if inbound == "Unary" {
		err = r.conn.Invoke(ctx, method, in, out)
	} else {
		err = r.stream(ctx, method, inbound, in, out)
	}
	if err == nil && out.GetValue() != in.GetValue() {
		err = fmt.Errorf("answered %.100q", out.GetValue())
	}
	return err
}

func (r *grpcRig) stream(ctx context.Context, method, kind string, in, out *wrapperspb.StringValue) error {
	desc := &grpc.StreamDesc{ClientStreams: kind != "Server", ServerStreams: kind != "Client"}
	st, err := r.conn.NewStream(ctx, desc, method)
	if err != nil {
		return err
	}
	if err := st.SendMsg(in); err != nil {
		return err
	}
	if err := st.CloseSend(); err != nil {
		return err
	}
	if err := st.RecvMsg(out); err != nil {
		return err
	}
	if !desc.ServerStreams {
		return nil
	}
	if err := st.RecvMsg(new(wrapperspb.StringValue)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the last message: %w", err)
	}
	return nil
}

// send makes n requests of a pattern through all relays.
func (r *grpcRig) send(p grpcPattern, prefix string, n int) []truth.Relayed {
	r.t.Helper()
	requests := make([]truth.Relayed, n)
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	for range min(grpcConcurrency, 2*goConcurrency(r.t)) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || failed.Load() > 5 {
					return
				}
				req := p.request(prefix, i, r.version, r.protocol)
				requests[i] = req
				pattern := strings.Repeat("via:", len(r.mids)-1) + p.name
				ctx, cancel := context.WithTimeout(context.Background(), patience(r.t, 30*time.Second))
				ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", req.Traceparents[0], "x-truth", req.ID+"/driver")
				err := r.call(ctx, p.inbound, grpcMessage{ID: req.ID, Pattern: pattern, Own: req.Own})
				cancel()
				if err != nil {
					failed.Add(1)
					r.t.Errorf("request %s: %v", req.ID, err)
				}
			}
		})
	}
	wg.Wait()
	if failed.Load() > 0 {
		r.t.FailNow()
	}
	return requests
}

// request is the i-th of a pattern. Nothing in a gRPC span names the request, so
// each is sent with a trace of its own.
func (p grpcPattern) request(prefix string, i int, v goVersion, served string) truth.Relayed {
	of := goPattern{name: p.title()}
	r := truth.Relayed{ID: fmt.Sprintf("%s-%s-%d", prefix, p.title(), i)}
	flags := uint8(1)
	if i%8 == 3 {
		flags = 0
	}
	r.Traceparents = []string{of.traceparent(prefix, i, flags)}
	if p.own {
		r.Own = of.traceparent(prefix+"own", i, 1)
	}
	names := p.calls
	if names == nil {
		names = []string{p.name}
	}
	expect, rules := p.expect, p.rules
	if p.creator && v.minor < 21 {
		expect = truth.Root
	}
	if served == "http" && p.creator {
		// The handler's goroutine was started by net/http's: that is two deep.
		expect = truth.Either
	}
	if served == "http" && p.name == "background" {
		// net/http's goroutine serves the request and starts the handler's.
		rules = []string{"goroutine", "creator"}
		if v.minor < 21 {
			expect, rules = truth.Either, nil
		}
	}
	for _, name := range names {
		r.Calls = append(r.Calls, truth.Call{Name: name, Expect: expect, Rules: rules, Optional: p.optional})
	}
	return r
}

func (r *grpcRig) measure(p grpcPattern, prefix string, n int) *truth.Tally {
	r.t.Helper()
	return r.judged(p, r.send(p, prefix, max(n/max(p.heavy, 1), 1)))
}

// judged is measure of requests that were sent.
func (r *grpcRig) judged(p grpcPattern, requests []truth.Relayed) *truth.Tally {
	r.t.Helper()
	n := len(requests)
	e := truth.Calls{Requests: requests, Key: wireAlone}
	least := n
	if p.calls != nil {
		least = n * len(p.calls)
	}
	if p.optional {
		least = 0
	}
	e.Arrivals = r.settled(least, !p.optional)
	// The driver's own calls, which the relay remembers too, must not pile up.
	r.mids[0].arrivals()
	e.Spans = r.spans(e)
	if r.agent != nil && !r.probing {
		r.statuses(p, e.Spans)
	}
	return truth.CheckCalls(e)
}

// wireAlone says that no attribute of a span tells the request.
func wireAlone(*truth.Span) (id, call string) { return "", "" }

// statuses judges what spans say of the outcome.
func (r *grpcRig) statuses(p grpcPattern, spans []truth.Span) {
	r.t.Helper()
	want := p.status
	if want == "" {
		want = "OK"
	}
	bad := map[string]int{}
	for i := range spans {
		s := &spans[i]
		got, expected := s.Attr("rpc.response.status_code"), want
		if s.Kind == truth.Server && s.Attr("server.port") == r.relayPort() {
			expected = "OK"
		}
		if s.Attr("rpc.system.name") != "grpc" {
			bad["not grpc: "+s.String()]++
		}
		if got != expected && (s.Kind == truth.Client || p.status == "" || p.status == "NOT_FOUND") {
			bad[fmt.Sprintf("%s span with status %q, want %q", s.Kind, got, expected)]++
		}
		if !strings.HasPrefix(s.Attr("rpc.method"), "weft.test.Matrix/") {
			bad["method "+s.Attr("rpc.method")]++
		}
	}
	var kinds []string
	for k, n := range bad {
		kinds = append(kinds, fmt.Sprintf("%d × %s", n, k))
	}
	slices.Sort(kinds)
	if len(kinds) > 0 {
		r.t.Errorf("%s:\n%.2000s", p.title(), strings.Join(kinds, "\n"))
	}
}

func (r *grpcRig) relayPort() string {
	target := r.conn.Target()
	return target[strings.LastIndexByte(target, ':')+1:]
}

// TestGRPCMatrix judges every call of a gRPC relay.
func TestGRPCMatrix(t *testing.T) {
	h := newGoHost(t)
	all := variant.GRPC()
	newest := startGRPCRig(t, h, buildGo(t, all[0]), parseGo(t, ""), grpcOptions{relays: 1})
	served := startGRPCRig(t, h, buildGo(t, all[0]), parseGo(t, ""), grpcOptions{relays: 1, http: true})
	served.protocol = "http"
	var older []*grpcRig
	for _, v := range all[1:] {
		older = append(older, startGRPCRig(t, h, buildGo(t, v), parseGo(t, v.Toolchain), grpcOptions{relays: 1}))
	}
	var encrypted *grpcRig
	if !h.unwritten(t) {
		encrypted = startGRPCRig(t, h, buildGo(t, all[0]), parseGo(t, ""), grpcOptions{relays: 1, tls: true})
	}
	h.trace(t)
	t.Run(all[0].Name(), func(t *testing.T) { newest.matrix(t, all[0].Name(), scaled(t, 1000)) })
	t.Run("http", func(t *testing.T) { served.matrix(t, "gogrpc-http", scaled(t, 200)) })
	for i, r := range older {
		t.Run(all[i+1].Name(), func(t *testing.T) { r.matrix(t, all[i+1].Name(), scaled(t, 200)) })
	}
	t.Run("tls", func(t *testing.T) {
		if encrypted == nil {
			t.Skip("memory cannot be written here, and nothing else in a span tells the calls of gRPC apart: run it in a VM, make vm")
		}
		encrypted.matrix(t, "gogrpc-tls", scaled(t, 200))
	})
	h.end(t)
}

// TestGRPCChain judges a chain of three, hop by hop.
func TestGRPCChain(t *testing.T) {
	h := newGoHost(t)
	r := startGRPCRig(t, h, buildGo(t, variant.GRPC()[0]), parseGo(t, ""), grpcOptions{relays: 2})
	h.trace(t)
	mid, front := r.mids[0], r.relay.cmd.Process.Pid
	n := scaled(t, 1000)
	for i, p := range []grpcPattern{{name: "unary", rules: byContext}, {name: "bidi", rules: byContext}, {name: "goctx", rules: byContext}} {
		e := truth.Calls{Requests: r.send(p, fmt.Sprintf("chain%d", i), n), Key: wireAlone}
		for j := range e.Requests {
			e.Requests[j].Calls = []truth.Call{{Name: "via", Rules: byContext}}
		}
		second := truth.Calls{Key: wireAlone, Arrivals: r.settled(n, true)}
		e.Arrivals = mid.settled(n, true)
		for _, a := range e.Arrivals {
			second.Requests = append(second.Requests, truth.Relayed{ID: a.ID, Traceparents: a.Traceparents,
				Calls: []truth.Call{{Name: p.name, Rules: byContext}}})
		}
		// One span of each server, one of each client.
		want := truth.Calls{Requests: e.Requests, Arrivals: append(slices.Clone(e.Arrivals), second.Arrivals...)}
		for _, s := range r.spans(want) {
			if s.PID == front || s.PID == mid.relay.cmd.Process.Pid && s.Kind == truth.Server {
				e.Spans = append(e.Spans, s)
			}
			if s.PID != front {
				second.Spans = append(second.Spans, s)
			}
		}
		for hop, e := range []truth.Calls{e, second} {
			tally := truth.CheckCalls(e)
			t.Logf("%s, hop %d: %v", p.name, hop+1, tally)
			if err := tally.Err(); err != nil {
				t.Errorf("%s, hop %d:\n%v", p.name, hop+1, err)
			}
		}
	}
	r.leave(t, result{Name: "gogrpc-chain"})
	h.end(t)
}

// matrix makes n calls of each pattern.
func (r *grpcRig) matrix(t *testing.T, name string, n int) {
	t.Helper()
	r.attached(t)
	sum := result{Name: name}
	for _, p := range grpcPatterns {
		tally := r.measure(p, "g", n)
		t.Logf("%-16s %v", p.title(), tally)
		if err := tally.Err(); err != nil {
			t.Errorf("%s %s:\n%v", name, p.title(), err)
		}
		sum.add(tally)
	}
	r.leave(t, sum)
}

// attached waits until calls have the parents that only the tier for Go finds.
func (r *grpcRig) attached(t *testing.T) {
	t.Helper()
	r.t = t
	r.probing = true
	defer func() { r.probing = false }()
	for i := 0; ; i++ {
		tally := r.measure(grpcPattern{name: "goctx"}, fmt.Sprintf("probe%d", i), 4)
		if tally.Err() == nil {
			return
		}
		if i == 30 {
			r.t.Fatalf("not followed from within: %v", tally.Err())
		}
	}
}

// TestGRPCJudgesUntraced: the same without weft must be answered in full, and
// must be found untraced.
func TestGRPCJudgesUntraced(t *testing.T) {
	h := &goHost{g: newGroup(t)}
	for _, o := range []grpcOptions{{relays: 1}, {relays: 1, tls: true}, {relays: 1, http: true}, {relays: 1, http: true, tls: true}, {relays: 2}} {
		t.Run(fmt.Sprintf("relays=%d,http=%v,tls=%v", o.relays, o.http, o.tls), func(t *testing.T) {
			r := startGRPCRig(t, h, buildGo(t, variant.GRPC()[0]), parseGo(t, ""), o)
			for _, p := range grpcPatterns {
				tally := r.measure(p, "off", 8)
				if tally.Calls > 0 && !p.own && tally.Count("header") != tally.Calls || tally.Count("lost") == 0 || tally.Right > 0 && !p.own {
					t.Errorf("%s: nothing was traced, but: %v\n%v", p.title(), tally, tally.Err())
				}
			}
		})
	}
}
