package selfstats

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func get(t *testing.T, s *Server, path string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + s.Addr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestEndpoints(t *testing.T) {
	defer goleak.VerifyNone(t)
	stats := New()
	stats.Dropped("otlp", "queue_full").Add(3)
	var why string
	srv, err := stats.Server(t.Context(), "127.0.0.1:0", func() (bool, string) { return why == "", why }, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = srv.Close(context.Background()) }()

	why = "2 processes not attached yet"
	for _, tc := range []struct {
		path   string
		status int
		body   string
	}{
		{"/healthz", 200, "ok\n"},
		{"/readyz", 503, "2 processes not attached yet\n"},
		{"/nowhere", 404, "404 page not found\n"},
	} {
		if status, body := get(t, srv, tc.path); status != tc.status || body != tc.body {
			t.Errorf("%s: %d %q, want %d %q", tc.path, status, body, tc.status, tc.body)
		}
	}
	why = ""
	if status, body := get(t, srv, "/readyz"); status != 200 || body != "ready\n" {
		t.Errorf("/readyz: %d %q", status, body)
	}
	status, body := get(t, srv, "/metrics")
	if status != 200 {
		t.Errorf("/metrics: %d", status)
	}
	for _, want := range []string{
		`weft_dropped_total{cause="queue_full",stage="otlp"} 3`,
		"go_goroutines ", "process_resident_memory_bytes ",
		"# HELP weft_open_exchanges ",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %q", want)
		}
	}
}

func TestServerEndsWithContext(t *testing.T) {
	defer goleak.VerifyNone(t)
	ctx, cancel := context.WithCancel(context.Background())
	srv, err := New().Server(ctx, "127.0.0.1:0", func() (bool, string) { return true, "" }, quiet())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-srv.done:
	case <-time.After(5 * time.Second):
		t.Fatal("still serving after the context ended")
	}
	if c, err := net.Dial("tcp", srv.Addr()); err == nil {
		_ = c.Close()
		t.Error("the port is still open")
	}
}

func TestServerOff(t *testing.T) {
	srv, err := New().Server(t.Context(), "", nil, quiet())
	if err != nil || srv.Addr() != "" || srv.Close(context.Background()) != nil {
		t.Errorf("turned off: %v %q", err, srv.Addr())
	}
}

func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, err = New().Server(t.Context(), l.Addr().String(), nil, quiet())
	want := "listen on " + l.Addr().String() +
		`: address already in use; set telemetry.listen to a free address or "" to turn it off`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Error("the cause is not wrapped")
	}
}

func TestListenErrorsAreOneLine(t *testing.T) {
	for _, listen := range []string{"no-port", "127.0.0.1:99999", "192.0.2.1:9464", "::1:9464"} {
		_, err := New().Server(t.Context(), listen, nil, quiet())
		if err == nil {
			t.Errorf("%s: no error", listen)
			continue
		}
		if s := err.Error(); strings.Contains(s, "\n") || !strings.Contains(s, listen) || !strings.Contains(s, "telemetry.listen") {
			t.Errorf("%s: %s", listen, s)
		}
	}
}

func TestSummary(t *testing.T) {
	stats := New()
	stats.Dropped("tree", "queue_full").Add(2)
	stats.Dropped("correlate", "max_age").Inc()
	stats.Dropped("otlp", "shutdown") // zero: not in the summary
	stats.Spans("server").Add(100)    // not a loss
	kernel := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weft_ring_lost_total"}, []string{"ring"})
	kernel.WithLabelValues("events").Add(7)
	if err := stats.Register(kernel); err != nil {
		t.Fatal(err)
	}
	if err := stats.Register(kernel); err == nil {
		t.Error("the same collector was registered twice")
	}
	rows, err := stats.Summary()
	if err != nil {
		t.Fatal(err)
	}
	want := []Row{
		{`weft_dropped_total{cause="max_age",stage="correlate"}`, 1},
		{`weft_dropped_total{cause="queue_full",stage="tree"}`, 2},
		{`weft_ring_lost_total{ring="events"}`, 7},
	}
	if len(rows) != len(want) {
		t.Fatalf("got %v, want %v", rows, want)
	}
	for i := range want {
		if rows[i] != want[i] {
			t.Errorf("row %d: %v, want %v", i, rows[i], want[i])
		}
	}
}

func TestValue(t *testing.T) {
	c := New().Parents("wire")
	c.Add(41)
	c.Inc()
	if v := Value(c); v != 42 {
		t.Errorf("got %v, want 42", v)
	}
}
