package correlate

import (
	"testing"
	"time"

	"weft/internal/event"
	"weft/internal/selfstats"
)

// What follows a request belongs to its span, though the response came before.
func TestEarlyResponseWaitsForWhatFollows(t *testing.T) {
	var got kept
	c := New(Options{}, &got, selfstats.New())
	c.Tick(epoch)
	answer := response(1, server, 3*time.Second)
	answer.FirstByte, answer.Clock = epoch.Add(2*time.Second), time.Hour
	c.Response(answer)
	asked := request(1, server, time.Second)
	asked.Clock = time.Hour + time.Minute // the wall clock was put forward in between
	c.Request(asked)
	c.Carried(event.Carried{SpanID: id(1), Role: server, TraceState: "a=1"})
	c.Route(event.Route{SpanID: id(1), Text: "/items/{id}"})
	c.Process(&event.Process{PID: 7, PIDStart: 70, Service: "shop"})
	if len(got) > 0 {
		t.Fatal("ended before what follows the request had come")
	}
	c.Tick(epoch.Add(time.Second))
	if len(got) != 1 || c.Open() != 0 {
		t.Fatalf("%d spans, %d open", len(got), c.Open())
	}
	s := got[0]
	if s.TraceState != "a=1" || s.Route != "/items/{id}" || s.Process == nil || s.Response.Status != 200 {
		t.Errorf("span %+v", s)
	}
	if d := s.Response.End.Sub(s.Start); d != time.Minute+2*time.Second {
		t.Errorf("lasts %v", d)
	}
}

// What cannot belong to a request is given up in order of its age.
func TestEarlyResponsesBounded(t *testing.T) {
	stats := selfstats.New()
	c := New(Options{MaxEarlyAge: 10 * time.Second}, &kept{}, stats)
	c.Response(response(1, server, 0)) // before the first Tick, which begins its age
	for second := range 30 {
		c.Tick(epoch.Add(time.Duration(second) * time.Second))
		c.Response(response(uint64(second)+2, client, 0))
		if n, most := len(c.early), 12; n > most {
			t.Fatalf("after %d s: %d held", second, n)
		}
	}
	if l := lost(t, stats)[dropped("response_without_request")]; l != 20 {
		t.Errorf("%d given up, want those of the first 20 s", l)
	}
	c.Flush()
	if l := lost(t, stats)[dropped("response_without_request")]; l != 31 || len(c.early) != 0 {
		t.Errorf("%d given up and %d held at the end", l, len(c.early))
	}
}

// BenchmarkResponseFirst is what an exchange costs whose response came first.
func BenchmarkResponseFirst(b *testing.B) {
	c := New(Options{}, nowhere{}, selfstats.New())
	req, resp := request(0, server, 0), response(0, server, time.Second)
	b.ReportAllocs()
	for i := range uint64(b.N) {
		req.SpanID, resp.SpanID = id(i), id(i)
		c.Response(resp)
		c.Request(req)
	}
}
