package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/loader/gobin/pgo"
	"weft/test/e2e/truth"
	"weft/test/e2e/variant"
)

// inlinedGo is test/apps/gomatrix, built with a profile by which the compiler inlines
// these calls of net/http.
func inlinedGo(t *testing.T, calls ...pgo.Hot) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no Go here to build it: it runs on the host")
	}
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := pgo.Profile(strings.TrimSpace(string(root)), calls...)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	// Its path is part of what the build is kept under.
	path := filepath.Join(cache, "weft-variants", "http1.pgo")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	v := goLocal
	v.Flags, v.Suffix = []string{"-pgo=" + path}, "pgo"
	return buildGo(t, v)
}

// told counts the lines of weft's log that have all of these.
func (a *agent) told(texts ...string) int {
	n := 0
lines:
	for line := range strings.Lines(a.out.String()) {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue lines
			}
		}
		n++
	}
	return n
}

// unsupported is how many Go programs weft says it could not follow in full.
func (a *agent) unsupported() float64 {
	return a.metrics()[`weft_attach_failures_total{attach="uprobe",cause="unsupported"}`]
}

// TestGoInlined: a function that weft would probe is inlined, and still there beside.
// inspect and the log say so, a counter counts it, nothing is written into memory, and
// no parent is wrong.
func TestGoInlined(t *testing.T) {
	calls := []pgo.Hot{pgo.HotServe}
	bin := inlinedGo(t, calls...)
	p := weft(t, "inspect", "--json", bin)
	var out output
	p.cmd.Stdout = &out
	p.run()
	if err := p.wait(patience(t, 30*time.Second)); err != nil {
		t.Fatalf("inspect: %v\n%s", err, p.out.tail())
	}
	var got struct {
		Go struct {
			Problems []string
			Sites    []struct{ Site string }
		}
	}
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatalf("inspect: %v", err)
	}
	for _, c := range calls {
		said := 0
		for _, problem := range got.Go.Problems {
			if strings.HasSuffix(problem, ": "+c.Callee+" is inlined into "+c.Into) {
				said++
			}
		}
		if said != 1 {
			t.Errorf("inspect says %d times that %s is inlined: %q", said, c.Callee, got.Go.Problems)
		}
	}
	for _, s := range got.Go.Sites {
		if s.Site == "SERVE" {
			t.Error("there is a site SERVE")
		}
	}
	h := newGoHost(t)
	r := startGoRig(t, h, bin, "http1", parseGo(t, ""))
	r.trace(t)
	tally := r.measure("inlined", scaled(t, 200), truth.Calls{Inexact: true},
		somePatterns("same", "noctx", "post", "go", "goctx", "pool", "fan", "own", "late", "forget", "forget-ctx")...)
	t.Logf("%v", tally)
	if err := tally.Err(); err != nil {
		t.Error(err)
	}
	for _, c := range calls {
		if n := r.agent.told("followed in part", c.Callee+" is inlined into "+c.Into); n != 1 {
			t.Errorf("%d lines of the log say that %s is inlined", n, c.Callee)
		}
	}
	if n := r.agent.unsupported(); n != float64(len(calls)) {
		t.Errorf("%v failures are counted, want %d", n, len(calls))
	}
	for name, v := range r.agent.metrics() {
		if v > 0 && strings.Contains(name, `"memory"`) && !strings.Contains(name, "unproven") {
			t.Errorf("written into memory: %s %v", name, v)
		}
	}
	r.leave(t, result{Name: "go-inlined"})
	r.end(t)
}

// TestGoOtherServer: a Go program whose HTTP is not net/http's is traced by its
// sockets, which is said on one line, and counted. No parent is wrong; who calls in the
// goroutine that serves has the right one.
func TestGoOtherServer(t *testing.T) {
	bin := buildGo(t, variant.Variant{Program: "gofast"})
	g, sink := newGroup(t), startSink(t)
	back, front := fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	programs := []*program{
		g.start("back", launch{argv: []string{bin, back}}, nil),
		g.start("front", launch{argv: []string{bin, front, back}}, nil),
	}
	programs[0].listens(back)
	programs[1].listens(front)
	a := startAgent(t, g, sink, agentOptions{})
	n := scaled(t, 2000)
	client := goClient(t, "http1")
	todo := make(chan int)
	var wg sync.WaitGroup
	for range goConcurrency(t) {
		wg.Go(func() {
			for i := range todo {
				resp, err := client.Get(fmt.Sprintf("http://%s/r/%d", front, i))
				if err != nil {
					t.Error(err)
					continue
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Errorf("request %d: %s", i, resp.Status)
				}
			}
		})
	}
	for i := range n {
		todo <- i
	}
	close(todo)
	wg.Wait()
	sink.Wait(3*n, patience(t, 8*time.Second))
	spans := sink.Take()
	path := map[string]string{} // by span, of the servers
	for _, s := range spans {
		if s.Kind == "SERVER" {
			path[s.SpanID] = s.Attr("url.path")
		}
	}
	right, wrong := 0, 0
	for _, s := range spans {
		if s.Kind != "CLIENT" || s.ParentID == "" {
			continue
		}
		u, err := url.Parse(s.Attr("url.full"))
		if err != nil {
			t.Fatal(err)
		}
		if path[s.ParentID] == u.Path {
			right++
		} else {
			wrong++
		}
	}
	t.Logf("%d requests, %d spans; of the calls %d have their parent, %d another's", n, len(spans), right, wrong)
	if len(spans) != 3*n || right != n || wrong > 0 {
		t.Errorf("want %d spans, and the parent of all calls", 3*n)
	}
	if lines := a.told("traced by its sockets alone", filepath.Base(bin)); lines != 1 {
		t.Errorf("%d lines of the log say that it is traced by its sockets alone", lines)
	}
	if a.unsupported() == 0 {
		t.Error("it is not counted")
	}
	for _, p := range programs {
		p.kill()
	}
	a.stop()
}
