package loader

import (
	"testing"
	"time"

	"weft/internal/event"
)

// TestClock: what the kernel stamps on CLOCK_MONOTONIC becomes the wall time of
// now, and goes with the wall clock it was told by.
func TestClock(t *testing.T) {
	var l Loader
	l.setClock()
	before := time.Now()
	got := l.clock.Wall(monotonic())
	if d := got.Sub(before.Round(0)); d < -time.Second || d > time.Second {
		t.Errorf("a stamp of now is %v away from now", d)
	}
	if !l.clock.Wall(0).IsZero() {
		t.Error("no stamp became a time")
	}

	// The same stamps, told by a clock that was stepped: the distance stays.
	for _, step := range []time.Duration{time.Hour, -time.Hour, -365 * 24 * time.Hour} {
		other := Clock{Offset: l.clock.Offset + step}
		from, to := uint64(5e9), uint64(7e9)
		if d := other.Wall(to).Sub(other.Wall(from)); d != 2*time.Second {
			t.Errorf("stepped by %v: 2 s became %v", step, d)
		}
		if d := other.Wall(from).Sub(l.clock.Wall(from)); d != step {
			t.Errorf("stepped by %v: a stamp moved by %v", step, d)
		}
		for _, raw := range [][]byte{requestRecord(), responseRecord()} {
			decoded, err := Decode(raw, other)
			if err != nil {
				t.Fatal(err)
			}
			var clock time.Duration
			switch e := decoded.(type) {
			case event.Request:
				clock = e.Clock
			case event.Response:
				clock = e.Clock
			}
			if clock != other.Offset {
				t.Errorf("%T says that its clock is %v, want %v: its times cannot be told by another", decoded, clock, other.Offset)
			}
		}
	}
}
