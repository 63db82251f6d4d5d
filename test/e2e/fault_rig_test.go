package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/test/apps/rawhttp/script"
	"weft/test/e2e/footprint"
)

// The tests of faults and the soak share one idea: while something goes wrong
// with weft or around it, programs that it traces exchange random requests, and
// each byte of each request is compared. What goes wrong must not be seen there.

// tally judges the samples of a load as they come, and keeps none: a load may
// run for hours.
type tally struct {
	mu       sync.Mutex
	rest     []byte // the beginning of a line
	requests int
	injected int
	bad      int
	examples []string          // of what was bad, a few
	answered map[int]time.Time // by connection: when its last request was answered
	touched  time.Time         // start of the last request that had a traceparent
}

func (y *tally) Write(b []byte) (int, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.rest = append(y.rest, b...)
	for {
		line, rest, found := bytes.Cut(y.rest, []byte("\n"))
		if !found {
			return len(b), nil
		}
		y.note(line)
		y.rest = append(y.rest[:0], rest...)
	}
}

func (y *tally) note(line []byte) {
	var s script.Sample
	if err := json.Unmarshal(line, &s); err != nil {
		s.Bad = fmt.Sprintf("sample %q: %v", line, err)
	}
	y.requests++
	if s.Bad != "" {
		if y.bad++; y.bad <= 5 {
			y.examples = append(y.examples, s.Bad)
		}
	}
	start := time.Unix(0, s.At)
	if s.Injected > 0 {
		y.injected++
		if start.After(y.touched) {
			y.touched = start
		}
	}
	y.answered[s.Conn] = start.Add(time.Duration(s.Micros) * time.Microsecond)
}

// count returns the requests answered so far, and how many had a traceparent.
func (y *tally) count() (requests, injected int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.requests, y.injected
}

// lastInjected is when the last request that had a traceparent began.
func (y *tally) lastInjected() time.Time {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.touched
}

// steadyLoad is a load that goes on until the test has seen enough.
type steadyLoad struct {
	*program
	tally       *tally
	connections int
}

// startSteadyLoad sends random requests from a program of the group, on so many
// kept connections, each with a pause between two requests.
func startSteadyLoad(t *testing.T, g *group, addr string, connections int, pause time.Duration) *steadyLoad {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed of the load: %d", seed)
	l := &steadyLoad{tally: &tally{answered: map[int]time.Time{}}, connections: connections}
	l.program = g.start("rawhttp load", launch{argv: []string{goProgram(t, "./test/apps/rawhttp"), "load", addr,
		fmt.Sprint(connections), fmt.Sprint(seed), "1000h", pause.String()}}, l.tally)
	l.sends(t, connections)
	return l
}

// sends waits until n more requests have been answered.
func (l *steadyLoad) sends(t *testing.T, n int) {
	t.Helper()
	before, _ := l.tally.count()
	for deadline := time.Now().Add(patience(t, time.Minute)); ; time.Sleep(10 * time.Millisecond) {
		now, _ := l.tally.count()
		if now >= before+n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d requests were answered, want %d: the load stands still\n%s", now-before, n, l.out.tail())
		}
	}
}

// judge says whether the traced programs noticed anything since the load began:
// each request was answered, every byte was exact, and each connection still
// moves. It may be called as often as one likes.
func (l *steadyLoad) judge(t *testing.T) {
	t.Helper()
	stuck := func() map[int]time.Duration {
		l.tally.mu.Lock()
		defer l.tally.mu.Unlock()
		out := map[int]time.Duration{}
		for conn := range l.connections {
			if since := time.Since(l.tally.answered[conn]); since > time.Second {
				out[conn] = since.Round(time.Millisecond)
			}
		}
		return out
	}
	still := stuck()
	for deadline := time.Now().Add(patience(t, 10*time.Second)); len(still) > 0 && time.Now().Before(deadline); still = stuck() {
		time.Sleep(50 * time.Millisecond)
	}
	if len(still) > 0 {
		t.Errorf("connections that stand still, by number: %v\n%s", still, l.out.tail())
	}
	l.tally.mu.Lock()
	defer l.tally.mu.Unlock()
	if l.tally.bad > 0 {
		t.Errorf("%d of %d requests not exact, such as: %s", l.tally.bad, l.tally.requests, strings.Join(l.tally.examples, "; "))
	}
}

// end judges the load and stops it.
func (l *steadyLoad) end(t *testing.T) {
	t.Helper()
	l.judge(t)
	select {
	case <-l.ended: // its cleanup complains
	default:
		l.kill()
	}
}

// eventually waits for a condition; what it returns is why not yet.
func eventually(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience(t, limit)); ; time.Sleep(50 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("after %v: %v", limit, err)
			return
		}
	}
}

// faultFor is how long a test of that kind goes on: what the variable says, or
// the default.
func faultFor(t *testing.T, variable string, otherwise time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		t.Fatalf("%s=%s: give a duration such as 90s or 2h", variable, text)
	}
	return d
}

// footprint reads what the agent occupies now.
func (a *agent) footprint() footprint.Sample {
	a.t.Helper()
	s, err := footprint.Read(a.cmd.Process.Pid)
	if err != nil {
		a.t.Fatalf("read weft's footprint: %v\n%s", err, a.out.tail())
	}
	s.Heap = uint64(a.metrics()["go_memstats_heap_inuse_bytes"])
	return s
}

// sum adds up the samples of a metric whose labels contain all the words.
func sumOf(metrics map[string]float64, name string, words ...string) (total float64) {
	for key, v := range metrics {
		family, labels, _ := strings.Cut(key, "{")
		matches := family == name
		for _, w := range words {
			matches = matches && strings.Contains(labels, w)
		}
		if matches {
			total += v
		}
	}
	return total
}

const mib = 1 << 20
