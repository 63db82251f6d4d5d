package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/test/e2e/truth"
	"weft/test/e2e/variant"
)

// goInspection is what `weft inspect --json` says of a Go program.
type goInspection struct {
	Go struct {
		Version    string
		Offsets    string
		Uncovered  []string
		Goroutines bool
		Writes     []string
		Sites      []struct{ Site string }
	}
}

func inspectGo(t *testing.T, path string) goInspection {
	t.Helper()
	p := weft(t, "inspect", "--json", path)
	var out output
	p.cmd.Stdout = &out
	p.run()
	if err := p.wait(patience(t, 30*time.Second)); err != nil {
		t.Fatalf("inspect: %v\n%s", err, p.out.tail())
	}
	var got goInspection
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatalf("inspect: %v\n%s", err, out.tail())
	}
	return got
}

// copyGo puts a program into a folder of its own, changed.
func copyGo(t *testing.T, from string, change func([]byte) []byte) string {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "changed")
	if err := os.WriteFile(to, change(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestGoUnknownVersion: of a version that nobody knows nothing is written, and no
// parent is wrong.
func TestGoUnknownVersion(t *testing.T) {
	known := variant.Go("1.19.13", true)
	bin := copyGo(t, buildGo(t, known), func(b []byte) []byte {
		return bytes.ReplaceAll(b, []byte("go1.19.13"), []byte("go1.99.13"))
	})
	got := inspectGo(t, bin)
	if got.Go.Version != "go1.99.13" || got.Go.Offsets != "unknown" || !slices.Contains(got.Go.Uncovered, "Go") || got.Go.Goroutines || len(got.Go.Writes) > 0 {
		t.Errorf("inspect: %+v", got.Go)
	}
	h := newGoHost(t)
	r := startGoRig(t, h, bin, "http1", parseGo(t, known.Toolchain))
	r.trace(t)
	tally := r.measure("unknown", scaled(t, 200), truth.Calls{Inexact: true}, somePatterns("same", "post", "go", "pool", "fan", "own", "late", "forget", "forget-ctx")...)
	t.Logf("%v", tally)
	if err := tally.Err(); err != nil {
		t.Error(err)
	}
	for name, v := range r.agent.metrics() {
		if v > 0 && strings.Contains(name, `"memory"`) && !strings.Contains(name, "unproven") {
			t.Errorf("written into memory: %s %v", name, v)
		}
	}
	r.leave(t, result{Name: "go-unknown"})
	r.end(t)
}

// TestGoReplaced deletes or replaces a program's file while it runs: it is the
// running one that counts.
func TestGoReplaced(t *testing.T) {
	h := newGoHost(t)
	same := func(b []byte) []byte { return b }
	deleted, replaced := copyGo(t, buildGo(t, goLocal), same), copyGo(t, buildGo(t, goLocal), same)
	rigs := []*goRig{startGoRig(t, h, deleted, "http1", parseGo(t, "")), startGoRig(t, h, replaced, "http1", parseGo(t, ""))}
	if err := os.Remove(deleted); err != nil {
		t.Fatal(err)
	}
	// As package managers do: another file under the same name.
	other := copyGo(t, buildGo(t, variant.Go("1.19.13", true)), same)
	if err := os.Rename(other, replaced); err != nil {
		t.Fatal(err)
	}
	h.trace(t)
	for i, name := range []string{"deleted", "replaced"} {
		t.Run(name, func(t *testing.T) {
			rigs[i].t = t
			rigs[i].exact(name, somePatterns("same", "noctx", "go", "pool", "pool-background", "own"))
			rigs[i].leave(t, result{Name: "go-" + name})
		})
	}
	h.end(t)
}

// TestGoShortLived runs Go programs that end at once; weft goes on, and says
// nothing but what metrics count.
func TestGoShortLived(t *testing.T) {
	h := newGoHost(t)
	bin := buildGo(t, goLocal)
	r := startGoRig(t, h, bin, "http1", parseGo(t, ""))
	r.trace(t)
	for range 40 {
		p := h.g.start("short", launch{argv: []string{bin, "-role", "nobody"}}, nil)
		if err := p.wait(patience(t, 10*time.Second)); err == nil {
			t.Fatal("a role that does not exist was played")
		}
	}
	r.exact("after", somePatterns("same", "noctx", "go", "pool"))
	r.leave(t, result{Name: "go-short-lived"})
	r.end(t)
	for line := range strings.Lines(r.agent.out.String()) {
		if strings.Contains(line, "level=ERROR") {
			t.Errorf("an error of a program that is gone: %s", line)
		}
	}
}
