package main

import (
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestInspectGo: this test is a Go program with a server, by its file and by its PID.
func TestInspectGo(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := inspectJSON[binaryView](t, exe)
	process := inspectJSON[processView](t, strconv.Itoa(os.Getpid()))
	for _, v := range []*goView{file.Go, process.Go} {
		if v == nil {
			t.Fatal("not taken for a Go program")
		}
		if v.Version != runtime.Version() || v.Offsets == "unknown" || !v.Goroutines || !slices.Contains(v.Writes, "HTTP/1") {
			t.Errorf("%+v", v)
		}
		serve := slices.IndexFunc(v.Sites, func(s siteView) bool { return s.Site == "SERVE" })
		if serve < 0 {
			t.Fatalf("sites %+v, absent %+v", v.Sites, v.Absent)
		}
		if s := v.Sites[serve]; s.Function != "net/http.serverHandler.ServeHTTP" || !s.Emulated || s.Address == 0 || s.Offset == 0 ||
			runtime.GOARCH == "amd64" && s.Instruction != "push %rbp" {
			t.Errorf("%+v", s)
		}
		for _, a := range v.Absent {
			if a.Site == "" || a.Why == "" {
				t.Errorf("absent: %+v", a)
			}
		}
	}
	if file.Attach != goAttach {
		t.Errorf("attaches %q", file.Attach)
	}
	if v := inspectJSON[binaryView](t, "/bin/true"); v.Go != nil || v.Attach != fileAttach {
		t.Errorf("/bin/true: %+v", v)
	}

	status, out, stderr := weft("inspect", exe)
	if status != 0 {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	for _, want := range []string{"\nGo           go1.", "\nprobe sites  SERVE ", "emulated  net/http.serverHandler.ServeHTTP\n", "\ngoroutines   can be told apart\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing from\n%s", want, out)
		}
	}
}
