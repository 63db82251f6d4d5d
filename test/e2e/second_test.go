package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"weft/test/e2e/truth"
)

// refusal is the last line that a weft printed, which has ended with status 2.
func refusal(t *testing.T, p *program) string {
	t.Helper()
	err := p.wait(patience(t, 30*time.Second))
	text := strings.TrimRight(p.out.String(), "\n")
	if p.cmd.ProcessState == nil || p.cmd.ProcessState.ExitCode() != 2 {
		t.Fatalf("want exit status 2, got %v\n%s", err, text)
	}
	noTrace(t, text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// TestSecondAgent: beside an agent that traces, another one does not start, and
// says whose place it would take and what to do.
func TestSecondAgent(t *testing.T) {
	i := newIsland(t)
	sink := startSink(t)
	first := i.agent(sink, islandOptions{})
	first.traces()
	line := refusal(t, i.agent(sink, islandOptions{}).program)
	for _, want := range []string{"another agent", fmt.Sprint(first.cmd.Process.Pid), "--standby", "--force"} {
		if !strings.Contains(line, want) {
			t.Errorf("the message does not say %q: %s", want, line)
		}
	}
	if line := refusal(t, i.agent(sink, islandOptions{flags: []string{"--force", "--standby"}}).program); !strings.Contains(line, "--force") {
		t.Errorf("both flags: %s", line)
	}
	first.stop()
	next := i.agent(sink, islandOptions{})
	next.traces()
	next.stop()
}

// TestPlaceHeldByNobody: who cannot be an agent cannot keep one from starting by
// holding the lock.
func TestPlaceHeldByNobody(t *testing.T) {
	i := newIsland(t)
	mount, err := cgroupMount()
	need(t, "cgroup2", err)
	flock, err := tool("flock", "util-linux")
	need(t, "flock", err)
	setpriv, err := tool("setpriv", "util-linux")
	need(t, "setpriv", err)
	nobody := i.start("nobody", setpriv, "--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs",
		flock, mount, "sh", "-c", "echo held; exec sleep 600")
	nobody.until(func() error {
		if !strings.Contains(nobody.out.String(), "held") {
			return fmt.Errorf("the lock is not held")
		}
		return nil
	})
	a := i.agent(startSink(t), islandOptions{})
	a.traces()
	if !strings.Contains(a.out.String(), "cannot be an agent") {
		t.Errorf("no word of who holds the lock:\n%s", a.out.tail())
	}
	a.stop()
}

// TestForced: two agents that trace the same programs break nothing: every byte is
// exact, no request has two headers, and most have one.
func TestForced(t *testing.T) {
	i := newIsland(t)
	addr, _ := startRawServer(t, i.apps)
	sinks := []func() []truth.Span{}
	var agents []*agent
	for n := range 2 {
		sink := startSink(t)
		sinks = append(sinks, sink.Take)
		a := i.agent(sink, islandOptions{flags: []string{"--force"}})
		a.traces()
		if warned := strings.Contains(a.out.String(), "another agent"); warned != (n == 1) {
			t.Errorf("agent %d: warned of another: %v\n%s", n, warned, a.out.tail())
		}
		agents = append(agents, a)
	}
	stretch := patience(t, time.Second)
	l := startRawLoad(t, i.apps, addr, uint64(time.Now().UnixNano()), 4*stretch)
	samples := l.finish(t, 40*stretch) // judges every byte, and that no head has two lines
	if share := injected(samples); share < 0.9 {
		t.Errorf("only %.3f of %d requests have a traceparent", share, len(samples))
	}
	for n, a := range agents {
		a.stop()
		if len(sinks[n]()) == 0 {
			t.Errorf("agent %d exported nothing: it was not beside the other one", n)
		}
	}
}

// TestExecBesideAgent: `weft exec` of a command that an agent selects too says so,
// and the command's requests have one header each.
func TestExecBesideAgent(t *testing.T) {
	i := newIsland(t)
	r := startReceiver(t, "127.0.0.1:0")
	curl, err := tool("curl", "curl")
	need(t, "curl", err)
	sink := startSink(t)
	a := i.agent(sink, islandOptions{targets: fmt.Sprintf("[{exe: %q, args: \"*%s*\"}]", curl, r.addr)})
	a.traces()
	p := i.start("weft exec", weftBin(t), "exec", "--format", "json", "--", curl, "-sS", "-o", "/dev/null", "http://"+r.addr+"/?id=beside")
	if err := p.wait(patience(t, 30*time.Second)); err != nil {
		t.Fatalf("weft exec: %v\n%s", err, p.out.tail())
	}
	if want := fmt.Sprintf("process %d", a.cmd.Process.Pid); !strings.Contains(p.out.String(), want) {
		t.Errorf("no word of %s:\n%s", want, p.out.tail())
	}
	head := r.take(t, "beside")
	lines := values(head, "traceparent")
	if len(lines) != 1 {
		t.Fatalf("%d traceparent lines in %q", len(lines), head)
	}
	wire, err := truth.ParseTraceparent(strings.TrimSpace(lines[0]))
	if err != nil {
		t.Fatal(err)
	}
	a.stop()
	spans, _ := splitSpans(t, p.out.String())
	spans = append(spans, sink.Take()...)
	owners := 0
	for _, s := range spans {
		if s.SpanID == wire.SpanID && s.TraceID == wire.TraceID {
			owners++
		}
	}
	if owners != 1 {
		t.Errorf("%q on the wire is the id of %d spans: %s", lines[0], owners, list(spans))
	}
}

// TestPlaceIsOne: the root of cgroup v2 is one inode in every mount and PID namespace.
func TestPlaceIsOne(t *testing.T) {
	mount, err := cgroupMount()
	need(t, "cgroup2", err)
	need(t, "root", rootUser())
	unshare, err := tool("unshare", "util-linux")
	need(t, "unshare", err)
	const mounted = `d=$(mktemp -d) && mount -t cgroup2 none "$d" && stat -c %d:%i "$d" && umount "$d" && rmdir "$d"`
	here, err := exec.Command("stat", "-c", "%d:%i", mount).Output()
	if err != nil {
		t.Fatal(err)
	}
	there, err := exec.Command(unshare, "--mount", "--pid", "--fork", "sh", "-c", mounted).Output()
	if err != nil {
		t.Fatal(err)
	}
	if string(here) != string(there) {
		t.Errorf("inode %s here, %s in another mount and PID namespace", here, there)
	}
}
