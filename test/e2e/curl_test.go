package e2e

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"weft/test/e2e/truth"
)

// TestCurl sends a few requests with curl, which is traced too, through nginx
// to Flask. The header that weft writes into curl's request passes through
// nginx and reaches Flask.
func TestCurl(t *testing.T) {
	bin, err := tool("curl", "curl")
	need(t, "curl", err)
	c := chain{links: []link{{start: nginx, path: "/via", eventLoop: true, forwards: true}, {start: werkzeug}}}
	g := newGroup(t)
	sink := startSink(t)
	url := c.start(t, g, false)
	startAgent(t, g, sink, agentOptions{})
	e := truth.Evidence{Caller: true, Hops: c.hops(1)}
	for i := range 5 {
		id := fmt.Sprintf("curl-%d", i)
		var stdout output
		p := g.start("curl", launch{argv: []string{bin, "-sS", "--fail", url + "?id=" + id}}, &stdout)
		if err := p.wait(patience(t, 10*time.Second)); err != nil {
			t.Fatalf("curl: %v\n%s", err, p.out.tail())
		}
		var rep leafReport
		if err := json.Unmarshal([]byte(stdout.String()), &rep); err != nil {
			t.Fatalf("answer %q: %v", stdout.String(), err)
		}
		e.Requests = append(e.Requests, truth.Request{ID: id})
		e.Arrivals = append(e.Arrivals, rep.arrival())
	}
	// curl, nginx twice, Flask.
	sink.Wait(4*len(e.Requests), patience(t, 8*time.Second))
	e.Spans = sink.Take()
	if err := truth.Check(e).Err(); err != nil {
		t.Error(err)
	}
}

// TestExecChain is the README's own case: a shell starts both services, weft
// exec prints what a request did.
func TestExecChain(t *testing.T) {
	sh, err := tool("sh", "dash")
	need(t, "sh", err)
	curl, err := tool("curl", "curl")
	need(t, "curl", err)
	mid, leaf := freePort(t), freePort(t)
	pyBin, env := python(t, place{port: mid, downstream: fmt.Sprintf("http://127.0.0.1:%d/leaf", leaf)})
	nodeBin, err := tool("node", "nodejs")
	need(t, "node", err)
	modules, err := installed("node_modules")
	need(t, "express", err)
	script := fmt.Sprintf(`set -e
PORT=%d NODE_PATH=%s %s %s/express/server.js & leaf=$!
%s %s/flask/app.py & mid=$!
for port in %d %d; do
	until %s -sf http://127.0.0.1:$port/ready >/dev/null; do sleep 0.1; done
done
%s -sf 'http://127.0.0.1:%d/call?id=exec-1'
kill $leaf $mid`, leaf, modules, nodeBin, appsDir(t), pyBin, appsDir(t), leaf, mid, curl, curl, mid)
	run := weftExec(t, env, sh, "-c", script)
	if run.status != 0 {
		t.Fatalf("status %d: %s\n%s", run.status, run.stdout, run.stderr)
	}
	var rep leafReport
	at := len(run.stdout)
	for at > 0 && run.stdout[at-1] != '\n' {
		at--
	}
	if err := json.Unmarshal([]byte(run.stdout[at:]), &rep); err != nil {
		t.Fatalf("answer %q: %v", run.stdout, err)
	}
	e := truth.Evidence{Caller: true, Hops: []truth.Hop{{Path: "/call", Selected: true}, {Path: "/leaf", Selected: true}},
		Requests: []truth.Request{{ID: "exec-1"}}, Arrivals: []truth.Arrival{rep.arrival()}}
	for _, s := range run.spans {
		if s.Path() != "/ready" {
			e.Spans = append(e.Spans, s)
		}
	}
	if err := truth.Check(e).Err(); err != nil {
		t.Error(err)
	}
}
