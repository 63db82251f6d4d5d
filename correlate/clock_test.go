package correlate

import (
	"testing"
	"time"

	"weft/internal/selfstats"
)

// TestClockStep: the wall clock is stepped while a request waits for its
// response. The span has the request's start and the true duration.
func TestClockStep(t *testing.T) {
	for _, step := range []time.Duration{0, time.Hour, -time.Hour, -24 * time.Hour, 90 * time.Microsecond, -time.Millisecond} {
		for _, first := range []bool{true, false} {
			var got kept
			c := New(Options{}, &got, selfstats.New())
			c.Tick(time.Now())
			req := request(1, server, 0)
			req.Clock = 20 * time.Hour
			c.Request(req)
			res := response(1, server, 2*time.Second+step)
			res.Clock = req.Clock + step
			if first {
				res.FirstByte = epoch.Add(time.Second + step)
			}
			c.Response(res)
			if len(got) != 1 {
				t.Fatalf("step %v: %d spans", step, len(got))
			}
			s := got[0]
			if d := s.Response.End.Sub(s.Start); d != 2*time.Second {
				t.Errorf("step %v: a request of 2 s took %v", step, d)
			}
			if !s.Start.Equal(epoch) {
				t.Errorf("step %v: the start moved by %v", step, s.Start.Sub(epoch))
			}
			if first != !s.Response.FirstByte.IsZero() || first && s.Response.FirstByte.Sub(s.Start) != time.Second {
				t.Errorf("step %v: first byte at %v", step, s.Response.FirstByte)
			}
		}
	}
}

// TestAgeIsNoMatterOfTheWallClock: a step must not age out what is open, and not
// keep it either.
func TestAgeIsNoMatterOfTheWallClock(t *testing.T) {
	for _, step := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
		for _, early := range []bool{true, false} { // before the first Tick
			var got kept
			stats := selfstats.New()
			c := New(Options{MaxAge: time.Minute}, &got, stats)
			now := time.Now()
			if !early {
				c.Tick(now)
			}
			req := request(1, server, 0)
			// Start is by the wall clock of before the step, as seen after it.
			req.Start = now.Round(0).Add(-step)
			c.Request(req)
			c.Tick(now)
			c.Tick(now.Add(59 * time.Second))
			if c.Open() != 1 {
				t.Errorf("step %v, early %t: dropped after 59 s, of a minute", step, early)
			}
			c.Tick(now.Add(61 * time.Second))
			if c.Open() != 0 || lost(t, stats)[dropped("max_age")] != 1 {
				t.Errorf("step %v, early %t: %d open after 61 s, of a minute", step, early, c.Open())
			}
		}
	}
}
