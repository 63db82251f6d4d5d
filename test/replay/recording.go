package replay

import (
	"os"
	"testing"

	"weft/correlate"
	"weft/internal/event"
	"weft/loader"
)

// FeedRecording returns a function for Run that replays a file written by
// `weft exec --record`. A recording does not say what its processes are:
// services names them by pid.
func FeedRecording(t testing.TB, path string, services map[uint32]string) func(*correlate.Correlator) {
	t.Helper()
	return func(c *correlate.Correlator) {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		h := &introducer{Correlator: c, t: t, services: services, known: map[uint32]bool{}}
		if err := loader.Replay(f, h); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
}

// introducer describes a process when it first makes or takes a request, as the
// loader does from /proc.
type introducer struct {
	*correlate.Correlator
	t        testing.TB
	services map[uint32]string
	known    map[uint32]bool
}

func (i *introducer) Request(r event.Request) {
	if !i.known[r.PID] {
		i.known[r.PID] = true
		name, ok := i.services[r.PID]
		if !ok {
			i.t.Errorf("the recording has a process %d that the test does not name", r.PID)
		}
		i.Process(&event.Process{PID: r.PID, PIDStart: r.PIDStart, Service: name,
			ServiceInstance: name + "-1", Exe: "/opt/shop/" + name, Args: []string{name}})
	}
	i.Correlator.Request(r)
}
