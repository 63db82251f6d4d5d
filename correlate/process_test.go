package correlate

import (
	"testing"
	"time"

	"weft/internal/event"
	"weft/internal/selfstats"
)

// TestKilled: what a program alone would have ended ends with it; a connection that the
// kernel sees is left to the kernel, and another process to itself.
func TestKilled(t *testing.T) {
	stats := selfstats.New()
	var got kept
	c := New(Options{}, &got, stats)
	c.Tick(epoch)
	p := &event.Process{PID: 7, PIDStart: 70, Service: "killed"}
	c.Process(p)
	c.Process(&event.Process{PID: 7, PIDStart: 71})
	open := func(n uint64, role event.Role, protocol event.Protocol, start uint64) {
		r := request(n, role, 100*time.Millisecond)
		r.Protocol, r.PIDStart = protocol, start
		c.Request(r)
	}
	open(1, server, event.ProtocolHTTP2, 70)
	open(1, client, event.ProtocolHTTP2|event.ProtocolGRPC, 70)
	open(2, client, event.ProtocolMinor|event.ProtocolTLS, 70)
	open(3, server, event.ProtocolMinor, 70)
	open(4, server, event.ProtocolHTTP2, 71)
	open(5, server, event.ProtocolHTTP2, 70)
	c.Tick(epoch.Add(5 * time.Second))
	c.ProcessExit(7, 70)
	c.Response(response(5, server, 4*time.Second)) // was in the ring still
	c.Tick(epoch.Add(7 * time.Second))
	if len(got) != 1 || got[0].Response.Status != 200 {
		t.Fatalf("%d spans while records of it may come, want the one that was answered", len(got))
	}
	c.Tick(epoch.Add(7*time.Second + 1))
	c.Tick(epoch.Add(9 * time.Second))
	if len(got) != 4 || c.Open() != 2 {
		t.Fatalf("%d spans and %d requests open, want 4 and 2", len(got), c.Open())
	}
	for _, s := range got[1:] {
		if s.Process != p || s.Response.Reason != event.EndClosed || s.Response.Status != 0 ||
			s.Response.SpanID != s.SpanID || s.Response.Role != s.Role || !s.Response.End.Equal(epoch.Add(5*time.Second)) {
			t.Errorf("ended as %+v, of %+v", s.Response, s.Process)
		}
	}
	if l := lost(t, stats); len(l) != 0 {
		t.Errorf("counted as lost: %v", l)
	}
	c.Response(response(3, server, 8*time.Second))
	if len(got) != 5 {
		t.Error("the connection outlived the process, and its end was not taken")
	}
}
