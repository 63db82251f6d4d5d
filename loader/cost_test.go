package loader

import (
	"log/slog"
	"net"
	"os"
	"testing"
)

// TestCost loads as `weft run` does and reads what it costs.
func TestCost(t *testing.T) {
	needRoot(t)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	l, err := New(Options{Log: log, RunTime: true, Capture: Capture(os.Getenv("WEFT_CAPTURE"))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	// weft_state runs at every change of a TCP connection's state.
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()

	cost, err := l.Cost()
	if err != nil {
		t.Fatal(err)
	}
	counting := true
	for _, f := range l.Failures() {
		if f.Attach == attachRunTime && f.Value > 0 {
			counting = false
			t.Logf("not counting: %s", f.Cause) // no CAP_SYS_ADMIN here
		}
	}
	if counting && !cost.Counting {
		t.Error("asked for run time, nothing failed, and it is not counted")
	}
	programs := map[string]ProgramCost{}
	for _, p := range cost.Programs {
		programs[p.Name] = p
		if p.Bytes == 0 {
			t.Errorf("program %s takes no memory", p.Name)
		}
	}
	if len(programs) != len(l.coll.Programs) {
		t.Errorf("%d programs, loaded are %d", len(programs), len(l.coll.Programs))
	}
	if p := programs["weft_state"]; counting && (p.Runs == 0 || p.RunTime <= 0) {
		t.Errorf("a connection was opened, and weft_state ran %d times, %v", p.Runs, p.RunTime)
	}
	maps := map[string]MapCost{}
	for _, m := range cost.Maps {
		maps[m.Name] = m
		if m.Bytes == 0 || m.Capacity == 0 {
			t.Errorf("map %s: %+v", m.Name, m)
		}
	}
	if m := maps["events"]; !m.Ring || m.Capacity != l.coll.Maps["events"].MaxEntries() {
		t.Errorf("the ring: %+v", m)
	}
	if m := maps["conns"]; m.Ring || m.Capacity != l.coll.Maps["conns"].MaxEntries() {
		t.Errorf("the table of connections: %+v", m)
	}
}
