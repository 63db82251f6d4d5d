package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("update", false, "rewrite testdata/golden.md")

const loadLine = `{"name":"gunicorn-express/close/conc=32","requests":40,"linked":40,"roots":0,"wrong":0,"p50Ms":66.1,"p99Ms":433.5,"passed":true}` + "\n"

// doctor is a report; the capture row is that of the way used.
func doctor(kernel, used string, more ...string) string {
	rows := append([]string{
		`{"name":"kernel","state":"ok","why":"` + kernel + ` x86_64"}`,
		`{"name":"capture","state":"ok","why":"` + used + ` would be used"}`,
	}, more...)
	return `{"kernel":"` + kernel + `","verdict":"propagates","capabilities":[` + strings.Join(rows, ",") + `]}`
}

const (
	fentryOK      = `{"name":"capture.fentry","state":"ok","why":"weft's programs load and attach"}`
	fentryRefused = `{"name":"capture.fentry","state":"missing","why":"the kernel refuses it: load: a|b","mend":"use a kernel with BPF trampolines: CONFIG_X=y"}`
	kprobeOK      = `{"name":"capture.kprobe","state":"ok","why":"weft's programs load and attach"}`
	tracepointOK  = `{"name":"capture.tracepoint","state":"ok","why":"weft's programs load and attach"}`
	kprobeBroken  = `{"name":"capture.kprobe","state":"missing","why":"load weft_x: invalid argument","mend":"report this line as a defect: --> <!-- "}`
	tracepointOld = `{"name":"capture.tracepoint","state":"missing","why":"the kernel refuses it: no BTF","effect":"none","mend":"use Linux 6.3 or later"}`
	injectOK      = `{"name":"injection","state":"ok","why":"self-test passed: a loopback connection"}`
	injectReceive = `{"name":"injection","state":"degraded","why":"self-test passed, with the receive program: FIONREAD is wrong"}`
)

// put writes a run as make does, in place of an earlier one; an empty text leaves the file away.
func put(t *testing.T, results, name, status, report, loads string, at time.Time) {
	t.Helper()
	dir := filepath.Join(results, name)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{"status": status, "doctor.json": report, "loads.jsonl": loads} {
		if text == "" {
			continue
		}
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
}

func day(n int) time.Time { return time.Date(2026, 11, n, 12, 0, 0, 0, time.UTC) }

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func mustUpdate(t *testing.T, results, out string) string {
	t.Helper()
	if err := update(results, out); err != nil {
		t.Fatal(err)
	}
	return read(t, out)
}

func TestGolden(t *testing.T) {
	results, out := t.TempDir(), filepath.Join(t.TempDir(), "kernels.md")
	put(t, results, "6.12-kprobe", "0\n", doctor("6.12.90", "kprobe", fentryOK, kprobeOK, tracepointOK, injectOK), loadLine, day(3))
	put(t, results, "5.10-fentry", "0\n", doctor("5.10.0-46", "fentry", fentryOK, kprobeBroken, tracepointOld, injectOK), loadLine+loadLine, day(2))
	put(t, results, "6.1-auto", "1\n", doctor("6.1.0-56", "fentry", fentryOK, injectOK),
		strings.NewReplacer(`"linked":40`, `"linked":30`, `"roots":0`, `"roots":9`, `"wrong":0`, `"wrong":1`, "true", "false").Replace(loadLine), day(2))
	put(t, results, "6.1-kprobe", "1\n", doctor("6.1.0-56", "kprobe", fentryOK, injectOK), loadLine, day(2))
	put(t, results, "newest-fentry", "1\n", "", "", day(2))
	put(t, results, "host-auto", "0\n", doctor("6.18.44", "tracepoint", fentryRefused, injectReceive), loadLine, day(2))
	put(t, results, "6.18-auto", "", doctor("6.18.1", "fentry"), loadLine, day(2)) // runs still
	put(t, results, "6.19-auto", "0\n", doctor("6.19.1", "fentry"), "", day(2))    // no load was among the tests
	put(t, results, "something-else", "0\n", doctor("1.1", "fentry"), "", day(2))  // not a run
	got := mustUpdate(t, results, out)
	const golden = "testdata/golden.md"
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want := read(t, golden); got != want {
		t.Errorf("not as %s (go test -update rewrites it):\n%s", golden, got)
	}
	if again := mustUpdate(t, results, out); again != got {
		t.Errorf("a second update changed the page:\n%s", again)
	}
	if kept := mustUpdate(t, filepath.Join(results, "none"), out); kept != got {
		t.Errorf("without results the page changed:\n%s", kept)
	}
}

// TestMerge: a run replaces its own row and no other, and never a later one.
func TestMerge(t *testing.T) {
	out := filepath.Join(t.TempDir(), "kernels.md")
	first := t.TempDir()
	put(t, first, "6.1-fentry", "0\n", doctor("6.1.0-50", "fentry", injectOK), loadLine, day(2))
	put(t, first, "6.12-fentry", "0\n", doctor("6.12.90", "fentry", injectOK), loadLine, day(2))
	mustUpdate(t, first, out)

	later := t.TempDir()
	put(t, later, "6.1-fentry", "0\n", doctor("6.1.0-56", "fentry", injectOK), loadLine, day(4))
	page := mustUpdate(t, later, out)
	if strings.Contains(page, "6.1.0-50") || !strings.Contains(page, "| 6.1 | 6.1.0-56 | fentry | fentry | propagates | no | passed, 1 of 1 loads | earlier | 2026-11-04 |") {
		t.Errorf("the later run did not replace its row:\n%s", page)
	}
	if !strings.Contains(page, "| 6.12 | 6.12.90 | fentry | fentry | propagates | no | passed, 1 of 1 loads | earlier | 2026-11-02 |") {
		t.Errorf("a run of 6.1 changed the row of 6.12:\n%s", page)
	}
	if again := mustUpdate(t, first, out); again != page {
		t.Errorf("an earlier run replaced a later one:\n%s", again)
	}
	put(t, later, "6.12-fentry", "0\n", doctor("6.12.91", "fentry", injectOK), "", day(5))
	if again := mustUpdate(t, later, out); again != page {
		t.Errorf("a run without loads changed the page:\n%s", again)
	}
	put(t, later, "6.12-fentry", "1\n", "", "", day(5))
	if page := mustUpdate(t, later, out); !strings.Contains(page, "| 6.12 | unknown | fentry | none | did not run | unknown | **failed** before the first load ended | earlier | 2026-11-05 |") {
		t.Errorf("a failed run is not shown:\n%s", page)
	}
}

// TestLatestReport: of the runs of one kernel the latest tells what doctor finds, so
// that a row which doctor no longer has goes with the first new run.
func TestLatestReport(t *testing.T) {
	results, out := t.TempDir(), filepath.Join(t.TempDir(), "kernels.md")
	old := doctor("6.1.0-50", "fentry", fentryOK, injectOK, `{"name":"root","state":"ok","why":"effective user 0"}`)
	put(t, results, "6.1-fentry", "0\n", old, loadLine, day(2))
	if page := mustUpdate(t, results, out); !strings.Contains(page, "| `root` | ok |") {
		t.Fatalf("the row is missing:\n%s", page)
	}
	put(t, results, "6.1-kprobe", "0\n", doctor("6.1.0-56", "kprobe", fentryOK, injectOK), loadLine, day(3))
	page := mustUpdate(t, results, out)
	if strings.Contains(page, "| `root` |") || !strings.Contains(page, "| capability | 6.1 (6.1.0-56) |") {
		t.Errorf("an earlier report is shown:\n%s", page)
	}
}

// TestGoneRow: what doctor no longer has is shown for no kernel, however old the run of
// one is.
func TestGoneRow(t *testing.T) {
	results, out := t.TempDir(), filepath.Join(t.TempDir(), "kernels.md")
	root := `{"name":"root","state":"ok","why":"effective user 0"}`
	put(t, results, "6.1-fentry", "0\n", doctor("6.1.0-50", "fentry", fentryOK, injectOK, root), loadLine, day(2))
	put(t, results, "6.12-fentry", "0\n", doctor("6.12.90", "fentry", fentryOK, injectOK), loadLine, day(3))
	if page := mustUpdate(t, results, out); strings.Contains(page, "| `root` |") || !strings.Contains(page, "| `injection` | ok | ok |") {
		t.Errorf("a row that is gone is shown:\n%s", page)
	}
}

// TestVersion: a row says of which weft it is.
func TestVersion(t *testing.T) {
	results, out := t.TempDir(), filepath.Join(t.TempDir(), "kernels.md")
	put(t, results, "6.1-fentry", "0\n", doctor("6.1.0-50", "fentry", injectOK), loadLine, day(2))
	if err := os.WriteFile(filepath.Join(results, "6.1-fentry", "version"), []byte("v1-2-gabc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time from the page
		if page := mustUpdate(t, results, out); !strings.Contains(page, "passed, 1 of 1 loads | v1-2-gabc | 2026-11-02 |") {
			t.Errorf("without its version:\n%s", page)
		}
		results = t.TempDir()
	}
}

// TestRefuses: what cannot be read leaves the page as it is.
func TestRefuses(t *testing.T) {
	tests := []struct{ name, page, report, loads, says string }{
		{"page without runs", "# Kernels\n", doctor("6.1", "fentry"), loadLine, "the comment with the runs is missing"},
		{"broken run kept", beginRuns + "{\"kernel\":\n" + endRuns, doctor("6.1", "fentry"), loadLine, "restore the file from git"},
		{"passed without report", "", "", loadLine, "doctor.json"},
		{"broken report", "", "{", loadLine, "doctor.json"},
		{"broken load", "", doctor("6.1", "fentry"), loadLine + "{\"name\"", "loads.jsonl"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			results, out := t.TempDir(), filepath.Join(t.TempDir(), "kernels.md")
			put(t, results, "6.1-auto", "0\n", tt.report, tt.loads, day(2))
			if tt.page != "" {
				if err := os.WriteFile(out, []byte(tt.page), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := update(results, out)
			if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line that says %q", err, tt.says)
			}
			if text, _ := os.ReadFile(out); string(text) != tt.page { // absent reads as empty
				t.Errorf("the page was changed:\n%s", text)
			}
		})
	}
}
