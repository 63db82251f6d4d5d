package export

import (
	"encoding/binary"
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"weft/internal/event"
	"weft/internal/selfstats"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// epoch is the start of every test trace.
var epoch = time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC)

func at(ms float64) time.Time {
	return epoch.Add(time.Duration(ms * float64(time.Millisecond)))
}

func traceID(n uint64) (id event.TraceID) {
	binary.BigEndian.PutUint64(id[:8], 0x4bf92f3577b34da6)
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

func spanID(n uint64) (id event.SpanID) {
	binary.BigEndian.PutUint64(id[:], n)
	return id
}

func process(service string, pid uint32) *event.Process {
	return &event.Process{
		PID: pid, PIDStart: uint64(pid) * 1000, Service: service,
		ServiceInstance: service + "-1", Exe: "/usr/bin/" + service,
		Resource: map[string]string{"deployment.environment.name": "test"},
	}
}

// hop describes one span of a test trace.
type hop struct {
	id, parent uint64
	process    *event.Process
	role       event.Role
	rule       event.ParentRule
	method     string
	target     string
	host       string
	status     int
	from, to   float64 // ms
	end        event.End
}

func (h hop) span(trace uint64) *event.Span {
	s := &event.Span{
		Request: event.Request{
			Start: at(h.from), TraceID: traceID(trace), SpanID: spanID(h.id),
			Role: h.role, Rule: h.rule, Flags: 1, Protocol: event.ProtocolMinor,
			Method: h.method, Target: h.target, TargetTotal: len(h.target), Host: h.host,
			Local:  netip.MustParseAddrPort("[::ffff:127.0.0.1]:8080"),
			Remote: netip.MustParseAddrPort("127.0.0.1:40112"),
		},
		Response: event.Response{
			SpanID: spanID(h.id), Role: h.role, End: at(h.to), Status: h.status,
			FirstByte: at(h.to), ResponseBody: 120, Reason: h.end,
		},
		Process: h.process,
	}
	if h.parent != 0 {
		s.ParentID = spanID(h.parent)
	}
	if h.role == event.RoleClient {
		s.Propagation = event.PropagationInjected
		s.Local, s.Remote = s.Remote, s.Local
	}
	if h.process != nil {
		s.PID, s.TID, s.PIDStart = h.process.PID, h.process.PID+1, h.process.PIDStart
	}
	return s
}

func spans(trace uint64, hops ...hop) []*event.Span {
	var out []*event.Span
	for _, h := range hops {
		out = append(out, h.span(trace))
	}
	return out
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs; run with -update if the change is meant\n--- got\n%s--- want\n%s", path, got, want)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// lost returns one drop counter's value.
func lost(t *testing.T, stats *selfstats.Stats, stage, cause string) int {
	t.Helper()
	rows, err := stats.Summary()
	if err != nil {
		t.Fatal(err)
	}
	name := `weft_dropped_total{cause="` + cause + `",stage="` + stage + `"}`
	for _, r := range rows {
		if r.Name == name {
			return int(r.Value)
		}
	}
	return 0
}
