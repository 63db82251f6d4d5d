package main

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"weft/internal/config"
	"weft/loader"
)

// inspectJSON decodes strictly.
func inspectJSON[T any](t *testing.T, args ...string) (v T) {
	t.Helper()
	status, out, stderr := weft(append([]string{"inspect", "--json"}, args...)...)
	if status != 0 {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	decoder := json.NewDecoder(strings.NewReader(out))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&v); err != nil {
		t.Fatalf("decode: %v\n%s", err, out)
	}
	if strings.Contains(out, "null") {
		t.Errorf("an empty list is null:\n%s", out)
	}
	return v
}

func TestInspectSelf(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	port := uint16(listener.Addr().(*net.TCPAddr).Port)
	file := filepath.Join(t.TempDir(), "weft.yaml")
	yaml := "targets:\n  - {exe: \"/nowhere\"}\n  - {name: mine, port: \"" + strconv.Itoa(int(port)) + "\"}\n"
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}

	v := inspectJSON[processView](t, "--config", file, strconv.Itoa(os.Getpid()))
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if v.PID != uint32(os.Getpid()) || v.Exe != exe || !slices.Equal(v.Args, os.Args) || v.Threads < 1 || v.Started.IsZero() {
		t.Errorf("%+v", v)
	}
	if v.Runtime.Language != "go" || !strings.HasPrefix(v.Runtime.Version, "go1.") || v.Runtime.Evidence == "" {
		t.Errorf("runtime %+v", v.Runtime)
	}
	if v.Service != (serviceView{"mine", "targets"}) || !strings.Contains(v.Selected.By, file+":3") {
		t.Errorf("service %+v, selected %+v", v.Service, v.Selected)
	}
	if !slices.Contains(v.Ports, port) {
		t.Errorf("ports %v, want %d", v.Ports, port)
	}
	want := map[string]connectionView{
		client.LocalAddr().String(): {Local: client.LocalAddr().String(), Remote: listener.Addr().String(), Role: "client", Adopt: true},
		server.LocalAddr().String(): {Local: listener.Addr().String(), Remote: client.LocalAddr().String(), Role: "server"},
	}
	for _, c := range v.Connections {
		if w, ok := want[c.Local]; ok && c.Remote == w.Remote {
			delete(want, c.Local)
			if w.FD = c.FD; c != w {
				t.Errorf("%+v, want %+v", c, w)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("not seen: %+v in %+v", want, v.Connections)
	}
	if os.Geteuid() != 0 && (v.Attach.Capture != "" || !strings.Contains(v.Attach.Why, "CAP_BPF and CAP_PERFMON missing")) {
		t.Errorf("attach %+v", v.Attach)
	}
}

// sleeper runs sleep with this environment alone, until the test ends. When Start
// returns the kernel has closed the descriptors of the forked copy; where the new
// program's arguments and environment are it notes down a little later, the end
// of the environment last.
func sleeper(t *testing.T, path, env string) (pid uint32) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path, "60")
	cmd.Env = []string{env}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it is ours
		cmd.Wait()         //nolint:errcheck // killed
	})
	file := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "environ")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		got, err := os.ReadFile(file)
		if err == nil && string(got) == env+"\x00" {
			return uint32(cmd.Process.Pid)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is %q (%v), want %q", file, got, err, env)
		}
	}
}

func TestInspectServiceFromEnvironment(t *testing.T) {
	path, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	file, err := filepath.EvalSymlinks(path) // where sleep is one of busybox's names
	if err != nil {
		t.Fatal(err)
	}
	byName := serviceView{filepath.Base(file), "executable"}
	for env, want := range map[string]serviceView{
		"OTEL_SERVICE_NAME=shop cart":                                   {"shop cart", "OTEL_SERVICE_NAME"},
		"OTEL_RESOURCE_ATTRIBUTES=a=b,service.name=till":                {"till", "OTEL_RESOURCE_ATTRIBUTES"},
		"OTEL_RESOURCE_ATTRIBUTES=service.name=till,service.name=%zz,=": byName,
		"X=y": byName,
	} {
		t.Run(env, func(t *testing.T) {
			seen, err := loader.Inspect(sleeper(t, path, env))
			if err != nil {
				t.Fatal(err)
			}
			if name, from := seen.Service(""); name != want.Name || from != want.From {
				t.Errorf("%s from %s, want %+v", name, from, want)
			}
		})
	}
}

// TestInspectAttach needs the kernel's answer.
func TestInspectAttach(t *testing.T) {
	needRoot(t)
	v := inspectJSON[processView](t, strconv.Itoa(os.Getpid()))
	status, out, _ := weft("doctor", "--json")
	rows := parseDiagnosis(t, status, out)
	if v.Attach.Capture == "" || !strings.HasPrefix(rows[capCapture].Why, v.Attach.Capture) {
		t.Errorf("inspect says %+v, doctor %+v", v.Attach, rows[capCapture])
	}
	if injects := status == 0; injects != (v.Attach.Inject == "socket") || injects != (v.Attach.SockOps != "") {
		t.Errorf("doctor exits %d, inspect says %+v", status, v.Attach)
	}
	t.Setenv("WEFT_PROPAGATION_INJECT", "")
	if v := inspectJSON[processView](t, strconv.Itoa(os.Getpid())); v.Attach.Inject != "" || v.Attach.SockOps != "" || v.Attach.Why == "" {
		t.Errorf("injection is off: %+v", v.Attach)
	}
}

func TestInspectDemoBinary(t *testing.T) {
	demo := filepath.Join(t.TempDir(), "demo")
	build := exec.Command("go", "build", "-o", demo, "weft/demo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	v := inspectJSON[binaryView](t, demo)
	if v.Kind != "executable" || v.Linking != "static" || v.Interpreter != "" || len(v.Libraries) != 0 || v.OpenSSL != "" {
		t.Errorf("%+v", v)
	}
	if v.Runtime.Language != "go" || !strings.HasPrefix(v.Runtime.Module, "weft") || v.Attach == "" {
		t.Errorf("%+v", v)
	}
	status, text, _ := weft("inspect", demo)
	if status != 0 || !strings.Contains(text, v.Attach) || !strings.Contains(text, v.Runtime.Version[2:]) {
		t.Errorf("exit status %d:\n%s", status, text)
	}
}

func TestInspectErrors(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh -e\necho\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("\x7fELF"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, want string }{
		{"0", "process 0 does not exist"},
		{"2147483647", "process 2147483647 does not exist"},
		{"99999999999999999999", "process 99999999999999999999 does not exist"},
		{"./5", "no such file"},
		{"/nowhere/at all", "no such file"},
		{t.TempDir(), "not a regular file"},
		{script, "a script for /bin/sh -e"},
		{short, "is not an ELF file"},
		{"/proc/self/status", "is not an ELF file"},
	} {
		status, out, stderr := weft("inspect", c.what)
		if status != 2 || out != "" || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("inspect %s: %d, %q, %q", c.what, status, out, stderr)
		}
	}
}

func TestInspectAsNobody(t *testing.T) {
	status, out, stderr := weftAsNobody(t, "inspect", strconv.Itoa(os.Getpid()))
	if status != 2 || out != "" || !strings.Contains(stderr, "run as root") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("%d, %q, %q", status, out, stderr)
	}
}

func TestSelectedBy(t *testing.T) {
	glob := func(s string) config.Glob {
		g, err := config.CompileGlob(s)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	c := loader.Candidate{PID: 7, Exe: "/usr/bin/python3", Args: "python3 cart.py"}
	cart := config.Target{Name: "cart", Args: glob("*cart.py")}
	pods := config.Target{Name: "pods", K8s: config.K8s{Namespace: glob("*")}}
	for _, k := range []struct {
		name    string
		targets config.Targets
		service string
		why     string
	}{
		{"selected", config.Targets{{PID: 8}, cart}, "cart", ""},
		{"no targets", nil, "", "no targets given"},
		{"no match", config.Targets{{PID: 8}}, "", "none of 1 targets"},
		{"pods are not asked for", config.Targets{{PID: 8}, pods}, "", "none of 1 targets matches; 1 more ask for pods"},
		{"pods before it", config.Targets{pods, cart}, "cart", "unless one of the 1 before it that ask for pods does"},
		{"pods behind it", config.Targets{cart, pods}, "cart", ""},
		{"excluded first", config.Targets{{Exe: glob("*python*"), Exclude: true}, cart}, "", "excluded by"},
	} {
		got, why := selectedBy(k.targets, c)
		if (got != nil) != (k.service != "") || got != nil && got.Name != k.service || !strings.Contains(why, k.why) || k.service != "" && k.why == "" && why != "" {
			t.Errorf("%s: %+v, %q", k.name, got, why)
		}
	}
}

func TestQuoted(t *testing.T) {
	if got := quoted([]string{"a", "b c", "", "x\ny"}); got != `a "b c" "" "x\ny"` {
		t.Error(got)
	}
}
