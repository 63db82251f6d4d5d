package loader

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	gofield "weft/loader/gobin/field"
)

// goLiveRig is the tier for Go on this very process, whose layout a test may change.
type goLiveRig struct {
	t      *testing.T
	coll   *collection
	g      *golang
	names  []string
	layout uint32
	right  WeftWeftGoLayout
}

func newGoLiveRig(t *testing.T) *goLiveRig {
	t.Helper()
	needRoot(t)
	if err := mayWriteUser(); err != nil {
		t.Skipf("%v: it runs where kernels are not locked down: CGO_ENABLED=0 go test -c -o bin/loader.test ./loader && "+
			"go run ./test/vm -kernel 6.12 -- bin/loader.test -test.run TestGoLive", err)
	}
	o := Options{Policy: anywhere(), Sampling: Sampling{ParentBased: true, Ratio: 1}, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), failed: &attachFailures{}}
	coll, err := loadAny(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { coll.close() }) //nolint:errcheck // of a test
	if err := coll.Maps["control"].Put(uint32(0), WeftWeftControl{DeadlineNs: 1 << 62}); err != nil {
		t.Fatal(err)
	}
	r := &goLiveRig{t: t, coll: coll}
	if r.names, err = counterNames(); err != nil {
		t.Fatal(err)
	}
	p, err := readProcess(selfPID())
	if err != nil {
		t.Fatal(err)
	}
	r.g = newGolang(o, coll.Maps)
	t.Cleanup(func() {
		if err := r.g.close(); err != nil {
			t.Error(err)
		}
	})
	r.g.follow(selfPID(), p.start)
	var a goAttached
	for end := time.Now().Add(5 * time.Minute); a.layout == 0 || r.g.unready() != ""; time.Sleep(50 * time.Millisecond) {
		for _, done := range r.g.take() {
			a = done
		}
		if time.Now().After(end) {
			t.Fatalf("not attached: %+v, %q", a, r.g.unready())
		}
	}
	if err := r.g.ensure(waveWrite); err != nil {
		t.Fatal(err)
	}
	r.layout = a.layout - 1
	if err := coll.Maps["go_layouts"].Lookup(r.layout, &r.right); err != nil {
		t.Fatal(err)
	}
	target := WeftWeftTarget{StartNs: p.start, GoLayout: a.layout, GoBias: a.bias}
	if err := coll.Maps["targets"].Put(selfPID(), target); err != nil {
		t.Fatal(err)
	}
	return r
}

// shift moves fields of the layout; none: all are right again.
func (r *goLiveRig) shift(by int, fields ...gofield.Field) {
	r.t.Helper()
	l := r.right
	for _, f := range fields {
		if l.Offset[f] == gofield.Unknown {
			r.t.Fatalf("%v is not known of this program", f)
		}
		l.Offset[f] = uint16(int(l.Offset[f]) + by)
	}
	if err := r.coll.Maps["go_layouts"].Put(r.layout, l); err != nil {
		r.t.Fatal(err)
	}
	// Nothing has been read of a program that is seen for the first time.
	var v WeftWeftTarget
	if err := r.coll.Maps["targets"].Lookup(selfPID(), &v); err != nil {
		r.t.Fatal(err)
	}
	v.GoFlags = 0
	if err := r.coll.Maps["targets"].Put(selfPID(), v); err != nil {
		r.t.Fatal(err)
	}
}

func (r *goLiveRig) counted(name string) uint64 {
	r.t.Helper()
	counts, err := readCounters(r.coll.Maps["counters"], r.names)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, c := range counts {
		if c.Metric+"_"+c.Cause == name {
			return c.Value
		}
	}
	r.t.Fatalf("no counter %s", name)
	return 0
}

// goLiveServer answers with the traceparent it received.
type goLiveServer struct {
	healthpb.UnimplementedHealthServer
	mu   sync.Mutex
	seen []string
}

func (s *goLiveServer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil || string(body) != "as it was" {
		http.Error(w, fmt.Sprintf("body %q: %v", body, err), http.StatusBadRequest)
		return
	}
	fmt.Fprint(w, req.Header["Traceparent"])
}

func (s *goLiveServer) Check(ctx context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if req.Service != "as it was" {
		return nil, fmt.Errorf("service %q", req.Service)
	}
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	s.seen = md["traceparent"]
	s.mu.Unlock()
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

// callers are ways to send a request: each says which traceparent arrived, "[]" if
// none.
func callers(t *testing.T) map[string]func() (string, error) {
	t.Helper()
	s := &goLiveServer{}
	web := httptest.NewUnstartedServer(s)
	web.Config.Protocols = new(http.Protocols)
	web.Config.Protocols.SetHTTP1(true)
	web.Config.Protocols.SetUnencryptedHTTP2(true)
	web.Start()
	t.Cleanup(web.Close)
	over := func(tr http.RoundTripper) func() (string, error) {
		return func() (string, error) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, web.URL, strings.NewReader("as it was"))
			if err != nil {
				return "", err
			}
			resp, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Do(req)
			if err != nil {
				return "", err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err == nil && resp.StatusCode != http.StatusOK {
				err = fmt.Errorf("%s: %s", resp.Status, body)
			}
			return string(body), err
		}
	}
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(h2.CloseIdleConnections)
	xnet := &http2.Transport{AllowHTTP: true, DialTLSContext: dialPlain} //nolint:staticcheck // programs still use it
	t.Cleanup(xnet.CloseIdleConnections)                                 //nolint:staticcheck // the same

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rpc := grpc.NewServer()
	healthpb.RegisterHealthServer(rpc, s)
	go rpc.Serve(l) //nolint:errcheck // stopped below
	t.Cleanup(rpc.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return map[string]func() (string, error){
		"HTTP/1": over(&http.Transport{DisableKeepAlives: true}),
		"HTTP/2": over(h2),
		"xnet":   over(xnet),
		"gRPC": func() (string, error) {
			_, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "as it was"})
			s.mu.Lock()
			defer s.mu.Unlock()
			return fmt.Sprint(s.seen), err
		},
	}
}

// TestGoLive: where the table of offsets is wrong of a program, what is read there does
// not look like what it should be, and nothing is written.
func TestGoLive(t *testing.T) {
	calls := callers(t)
	r := newGoLiveRig(t)
	x := func(f gofield.Field) gofield.Field { return f.In(gofield.XNet) }
	wrong := map[string][]struct {
		by     int
		fields []gofield.Field
	}{
		"HTTP/1": {
			{8, []gofield.Field{gofield.WriterBuf}}, {-8, []gofield.Field{gofield.WriterBuf}}, {8, []gofield.Field{gofield.WriterN}},
			{8, []gofield.Field{gofield.WriterBuf, gofield.WriterN, gofield.WriterErr}}, {16, []gofield.Field{gofield.WriterErr}},
			{8, []gofield.Field{gofield.MCurg}}, {8, []gofield.Field{gofield.GM}},
		},
		"HTTP/2": {
			{8, []gofield.Field{gofield.WriterBuf}}, {8, []gofield.Field{gofield.WriterN}}, {16, []gofield.Field{gofield.WriterErr}},
			{8, []gofield.Field{gofield.H2FramerW}}, {16, []gofield.Field{gofield.H2FramerW}}, {8, []gofield.Field{gofield.H2FramerWbuf}}, {-8, []gofield.Field{gofield.H2FramerWbuf}},
			{8, []gofield.Field{gofield.MCurg}},
		},
		"xnet": {
			{8, []gofield.Field{gofield.WriterBuf}}, {8, []gofield.Field{gofield.WriterN}},
			{8, []gofield.Field{x(gofield.H2FramerW)}}, {8, []gofield.Field{x(gofield.H2FramerWbuf)}}, {-8, []gofield.Field{x(gofield.H2FramerWbuf)}},
		},
		"gRPC": {
			{8, []gofield.Field{x(gofield.H2FramerWbuf)}}, {-8, []gofield.Field{x(gofield.H2FramerWbuf)}}, {8, []gofield.Field{x(gofield.H2FramerW)}}, {8, []gofield.Field{gofield.MCurg}},
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			r.t = t
			r.shift(0)
			written := r.counted("injected_memory")
			for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
				if got, err := call(); err != nil {
					t.Fatal(err)
				} else if len(got) == len("[00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01]") && r.counted("injected_memory") > written {
					break
				} else if time.Now().After(end) {
					t.Fatalf("with the right layout the server received %s; refused for live memory %d times", got, r.counted("refused_live"))
				}
			}
			for _, w := range wrong[name] {
				r.shift(w.by, w.fields...)
				written, refused := r.counted("injected_memory"), r.counted("refused_live")
				for range 3 {
					if got, err := call(); err != nil || got != "[]" {
						t.Errorf("%v moved by %d: the server received %s, error %v", w.fields, w.by, got, err)
					}
				}
				if n := r.counted("injected_memory") - written; n > 0 {
					t.Errorf("%v moved by %d: written %d times", w.fields, w.by, n)
				}
				if r.counted("refused_live") == refused {
					t.Errorf("%v moved by %d: nothing was refused for it", w.fields, w.by)
				}
			}
		})
	}
}

func dialPlain(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}
