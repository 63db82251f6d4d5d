package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/test/apps/rawhttp/script"
)

// TestFaultBinaryReplaced: the file that a traced program runs from is replaced
// by another, then deleted, as an upgrade of a package does it. The running
// program stays traced, by a weft that starts later too, and so is what is
// started from the new file.
func TestFaultBinaryReplaced(t *testing.T) {
	built := goProgram(t, "./test/apps/rawhttp")
	file := filepath.Join(t.TempDir(), "upgraded")
	install := func() {
		t.Helper()
		raw, err := os.ReadFile(built)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file+".new", raw, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil { // as dpkg does
			t.Fatal(err)
		}
	}
	install()
	g := newGroup(t)
	r := &rig{sink: startSink(t)}
	r.addr = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	g.start("rawhttp server", launch{argv: []string{file, "server", r.addr}}, nil).listens(r.addr)
	r.client = startRawClientAs(t, g, launch{}, file)
	o := agentOptions{targets: fmt.Sprintf("[{exe: %q}]", file)}
	r.agent = startAgent(t, g, r.sink, o)
	connected := false
	works := func(t *testing.T) {
		t.Helper()
		x := r.ask("POST", "/leaf", "body")
		s := script.Step{Send: x.bytes(), Reads: make([]script.Read, 1)}
		if !connected {
			s.Connect, s.NonBlocking, connected = r.addr, true, true
		}
		spans := r.traced(t, []exchange{x}, r.client.do(t, s).Got)
		for _, span := range spans {
			if span.Service != "upgraded" {
				t.Errorf("service %q, want upgraded", span.Service)
			}
		}
	}
	works(t)

	install()
	works(t)
	// One that runs from the new file, beside those that run from the old.
	second := startRawClientAs(t, g, launch{}, file)
	old := r.client
	r.client, connected = second, false
	eventually(t, 10*time.Second, func() error {
		if n := r.agent.metrics()["weft_processes_selected"]; n != 3 {
			return fmt.Errorf("%v processes are selected, want 3", n)
		}
		return nil
	})
	works(t)

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	works(t)
	r.agent.stop()

	// A weft that has never seen the file.
	r.client, connected = old, false
	r.agent = startAgent(t, g, r.sink, o)
	if n := r.agent.metrics()["weft_processes_selected"]; n != 3 {
		t.Errorf("%v processes are selected, want 3", n)
	}
	works(t)
	p := weft(t, "inspect", fmt.Sprint(old.cmd.Process.Pid))
	p.run()
	if err := p.wait(patience(t, 2*time.Minute)); err != nil || !strings.Contains(p.out.String(), "upgraded") {
		t.Errorf("weft inspect of a program whose file is gone: %v\n%s", err, p.out.tail())
	}
	r.agent.stop()
}
