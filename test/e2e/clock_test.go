package e2e

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/test/apps/rawhttp/script"
)

// ownMachine is nil where nobody else is on the machine: in a test VM.
func ownMachine() error {
	if os.Getenv("WEFT_E2E_VM") != "1" {
		return errors.New("this sets the clock of the whole machine: make vm RUN=TestClockStep does it in a machine of its own")
	}
	return nil
}

// TestClockStep sets the wall clock a day forward and two back while requests
// wait for their responses. The programs must not notice; a span has the true
// duration, whichever clock its start is told by.
func TestClockStep(t *testing.T) {
	if err := ownMachine(); err != nil {
		t.Skip(err)
	}
	r := newRig(t)
	client := r.client
	const day = 24 * time.Hour
	for i, step := range []time.Duration{day, -2 * day} {
		// Half of the body now, the rest after the step: the exchange is open.
		x := r.ask("POST", "/leaf", "first half, second half")
		cut := len(x.bytes()) - len("second half")
		s := script.Step{Send: x.bytes()[:cut]}
		if i == 0 {
			s.Connect = r.addr
		}
		began := time.Now()
		client.do(t, s)
		stepClock(t, step)
		// The agent looks at the clock every ten seconds.
		time.Sleep(12 * time.Second)
		got := client.do(t, script.Step{Send: x.bytes()[cut:], Reads: make([]script.Read, 1)}).Got
		took := time.Since(began) // by the monotonic clock
		lines := x.exact(t, got[0])
		if len(lines) != 1 {
			t.Errorf("stepped by %v: traceparent %q", step, lines)
		}
		spans := r.await(t, 2, x)
		if len(spans) != 2 {
			t.Errorf("stepped by %v: %d spans, want 2", step, len(spans))
		}
		for _, s := range spans {
			if d := time.Duration(s.End - s.Start); d < took-5*time.Second || d > took+5*time.Second || d < 0 {
				t.Errorf("stepped by %v: a request of %v became a span of %v: %s", step, took.Round(time.Millisecond), d, &s)
			}
		}
		// And the next one is told by the new clock.
		x = r.ask("POST", "/leaf", "body")
		r.traced(t, []exchange{x}, client.do(t, script.Step{Send: x.bytes(), Reads: make([]script.Read, 1)}).Got)
	}
	r.agent.stop()
}

func stepClock(t *testing.T, by time.Duration) {
	t.Helper()
	now := time.Now().Add(by)
	tv := unix.NsecToTimeval(now.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		t.Fatalf("set the clock: %v", err)
	}
}
