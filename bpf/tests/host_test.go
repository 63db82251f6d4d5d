// Package bpftest tests the helper-free headers of bpf/lib: on the host under
// sanitizers, against the Go implementations of the same protocols, and in the
// kernel's verifier.
package bpftest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// clang builds one of this folder's C files into a temporary directory. A
// machine without clang fails: a parser nobody tested must not look green.
func clang(t testing.TB, output, source string, flags ...string) string {
	t.Helper()
	name := os.Getenv("CLANG")
	if name == "" {
		name = "clang-19"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s not found: install it (Debian: apt-get install clang-19 libclang-rt-19-dev) or set CLANG", name)
	}
	out := filepath.Join(t.TempDir(), output)
	args := append([]string{"-g", "-Wall", "-Wextra", "-Werror"}, flags...)
	args = append(args, source, "-o", out)
	if text, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, text)
	}
	return out
}

var sanitizers = []string{"-O1", "-Wpadded", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"}

// host is the sanitized test program, built once.
var host struct {
	once sync.Once
	path string
}

func hostBinary(t *testing.T) string {
	t.Helper()
	host.once.Do(func() {
		built := clang(t, "lib_host", "lib_host.c", sanitizers...)
		// TempDir ends with the test that happened to come first.
		kept, err := os.CreateTemp("", "weft-lib-host-*")
		if err != nil {
			t.Fatal(err)
		}
		kept.Close()
		if err := os.Rename(built, kept.Name()); err != nil {
			t.Fatal(err)
		}
		host.path = kept.Name()
	})
	if host.path == "" {
		t.Fatal("the host program was not built: see the first failure")
	}
	return host.path
}

func TestMain(m *testing.M) {
	code := m.Run()
	if host.path != "" {
		os.Remove(host.path)
	}
	os.Exit(code)
}

// TestVectors runs the vector files; the C side cuts each input in one piece, byte by
// byte, at every position (of the first 64), and at random.
func TestVectors(t *testing.T) {
	for _, kind := range []string{"http1", "traceparent", "tracestate", "baggage"} {
		t.Run(kind, func(t *testing.T) {
			file := filepath.Join("vectors", kind+".txt")
			out, err := exec.Command(hostBinary(t), kind, file).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", bytes.TrimSpace(out))
		})
	}
}

// TestVectorsCanFail breaks an expectation and wants the runner to notice.
func TestVectorsCanFail(t *testing.T) {
	for kind, edit := range map[string][2]string{
		"http1":       {"blank=33", "blank=32"},
		"traceparent": {"\tversion", "\tok"},
		"tracestate":  {"ok cut=1", "ok cut=2"},
		"baggage":     {"malformed=2", "malformed=1"},
	} {
		text, err := os.ReadFile(filepath.Join("vectors", kind+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		broken := bytes.Replace(text, []byte(edit[0]), []byte(edit[1]), 1)
		if bytes.Equal(broken, text) {
			t.Fatalf("%s.txt: %q not found", kind, edit[0])
		}
		file := filepath.Join(t.TempDir(), "broken.txt")
		if err := os.WriteFile(file, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(hostBinary(t), kind, file).CombinedOutput(); err == nil {
			t.Errorf("%s: a wrong expectation passed\n%s", kind, out)
		}
	}
}

// TestCorpus replays the committed fuzzing corpora, so that what fuzzing once
// found stays mended where nobody fuzzes.
func TestCorpus(t *testing.T) {
	for _, target := range []string{"http1", "http2", "traceparent", "tracestate", "baggage"} {
		t.Run(target, func(t *testing.T) {
			program := clang(t, "fuzz_"+target, "fuzz_"+target+".c", "-O1",
				"-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")
			dir := filepath.Join("corpus", target)
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) < 40 {
				t.Fatalf("corpus %s: %d inputs, error %v", dir, len(entries), err)
			}
			if out, err := exec.Command(program, "-runs=0", dir).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}

// frame is one stream or value for the host program.
type frame struct {
	data    []byte
	request bool
	noBody  bool
}

// ask sends frames to the host program in the given mode and returns its
// answers in order.
func ask(t *testing.T, mode string, frames []frame) []string {
	t.Helper()
	var in bytes.Buffer
	for _, f := range frames {
		var flags byte
		if f.request {
			flags |= 1
		}
		if f.noBody {
			flags |= 2
		}
		in.Write(binary.NativeEndian.AppendUint32(nil, uint32(len(f.data))))
		in.WriteByte(flags)
		in.Write(f.data)
	}
	cmd := exec.Command(hostBinary(t), mode)
	var stderr strings.Builder
	cmd.Stdin, cmd.Stderr = &in, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", mode, err, stderr.String())
	}
	answers, err := split(out)
	if err != nil || len(answers) != len(frames) {
		t.Fatalf("%d answers to %d frames, error %v", len(answers), len(frames), err)
	}
	return answers
}

func split(out []byte) ([]string, error) {
	var answers []string
	for len(out) > 0 {
		if len(out) < 4 {
			return nil, fmt.Errorf("answer cut short")
		}
		n := int(binary.NativeEndian.Uint32(out))
		if len(out) < 4+n {
			return nil, fmt.Errorf("answer cut short")
		}
		answers = append(answers, string(out[4:4+n]))
		out = out[4+n:]
	}
	return answers, nil
}
