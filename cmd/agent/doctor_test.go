package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"weft/internal/privilege"
	"weft/loader"
)

// needRoot skips where BPF cannot be tried, and fails where it must be.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 && !testing.Short() {
		return
	}
	const why = "tries BPF programs: run as root and without -short"
	if os.Getenv("CI") == "true" {
		t.Fatal("CI must run this test; it " + why)
	}
	t.Skip(why)
}

// weft runs the command in this process.
func weft(args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(args, &out, &errs)
	return status, out.String(), errs.String()
}

// childArgs carries arguments to TestChild.
const childArgs = "WEFT_TEST_CHILD_ARGS"

// TestChild is weft itself when another test has started this binary.
func TestChild(t *testing.T) {
	args, ok := os.LookupEnv(childArgs)
	if !ok {
		t.Skip("only runs as a child of other tests")
	}
	os.Exit(run(strings.Split(args, "\x1f"), os.Stdout, os.Stderr))
}

// weftAsNobody runs the command as uid 65534, from a copy of this binary that
// uid may execute.
func weftAsNobody(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must run this test; it changes user and needs root")
		}
		t.Skip("changes user: run as root")
	}
	dir, err := os.MkdirTemp("", "weft-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	path := filepath.Join(dir, "weft")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(file, self); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(file.Chmod(0o755), file.Close()); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := exec.Command(path, "-test.run=^TestChild$")
	cmd.Dir = dir
	cmd.Env = []string{childArgs + "=" + strings.Join(args, "\x1f"), "PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var exited *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exited) {
		t.Fatalf("start as nobody: %v", err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// TestDoctorOnPoorHosts takes away, in namespaces of a child's own, what a host
// may lack.
func TestDoctorOnPoorHosts(t *testing.T) {
	needRoot(t)
	mount, err := loader.Cgroup2Mount()
	if err != nil {
		t.Skip("this host is one of them: ", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, lose string
		clone      uintptr
		missing    string
		unknown    []string
		most       verdict // what a host without it can do at most
	}{
		{"no cgroup v2", "umount -l " + mount, 0, capCgroup, []string{capSockOps, capInjection}, observes},
		{"no BTF", "mount -t tmpfs none /sys/kernel/btf", 0, capBTF, []string{capTPBTF, capCapture, capInjection}, nothing},
		{"user namespace", "true", syscall.CLONE_NEWUSER, "cap_bpf", []string{capBPF, capCapture, capInjection}, undecided},
		{"PID namespace", "mount -t proc proc /proc", syscall.CLONE_NEWPID, capPIDs, []string{capInjection}, nothing},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command("sh", "-ec", c.lose+`; exec "$0" -test.run='^TestChild$'`, self)
			cmd.Env = append(os.Environ(), childArgs+"=doctor\x1f--json")
			cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Cloneflags: c.clone}
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			var exited *exec.ExitError
			if err := cmd.Run(); err != nil && !errors.As(err, &exited) {
				t.Fatal(err)
			}
			if out.Len() == 0 {
				t.Fatalf("nothing printed: %s", errs.String())
			}
			status := cmd.ProcessState.ExitCode()
			rows := parseDiagnosis(t, status, out.String())
			if rows[c.missing].State != stateMissing || status < c.most.status() {
				t.Errorf("exit status %d, %+v", status, rows[c.missing])
			}
			for _, name := range c.unknown {
				if rows[name].State != stateUnknown || !strings.Contains(rows[name].Why, "not tried without") {
					t.Errorf("%+v", rows[name])
				}
			}
		})
	}
}

var rowNames = []string{"kernel", "cap_bpf", "cap_perfmon", "cap_net_admin", "cap_sys_ptrace", "cap_dac_read_search", "pid_namespace", "btf", "bpf", "ring_buffer", "tp_btf",
	"capture.fentry", "capture.kprobe", "capture.tracepoint", "capture", "memlock",
	"cgroup_v2", "sockops", "sk_msg", "injection", "liveness", capGoUprobes, capGoWrites, "pidfd_getfd", "bpf_fs", "kubernetes"}

// parseDiagnosis reads --json strictly and checks what holds on every host.
func parseDiagnosis(t *testing.T, status int, out string) map[string]capability {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(out))
	decoder.DisallowUnknownFields()
	var d diagnosis
	if err := decoder.Decode(&d); err != nil {
		t.Fatalf("decode: %v\n%s", err, out)
	}
	if d.Kernel == "" || status != d.Verdict.status() {
		t.Errorf("kernel %q, verdict %q, exit status %d", d.Kernel, d.Verdict, status)
	}
	names, rows := []string{}, map[string]capability{}
	for _, c := range d.Capabilities {
		names = append(names, c.Name)
		rows[c.Name] = c
		if c.Why == "" || strings.Contains(c.Why+c.Effect+c.Mend, "\n") {
			t.Errorf("%s does not say why on one line: %+v", c.Name, c)
		}
		switch c.State {
		case stateOK, stateUnknown:
		case stateMissing, stateDegraded:
			if c.Effect == "" || c.Mend == "" {
				t.Errorf("%s is %s without effect or mend: %+v", c.Name, c.State, c)
			}
		default:
			t.Errorf("%s: state %q", c.Name, c.State)
		}
	}
	if !slices.Equal(names, rowNames) {
		t.Errorf("rows %v, want %v", names, rowNames)
	}
	return rows
}

func TestDoctorAsRoot(t *testing.T) {
	needRoot(t)
	status, out, stderr := weft("doctor", "--json")
	rows := parseDiagnosis(t, status, out)
	for name, c := range rows {
		if strings.Contains(c.Why, "not tried without CAP_") {
			t.Errorf("%s: %q, and this is root", name, c.Why)
		}
		t.Logf("%-9s %s: %s", c.State, name, c.Why)
	}
	if stderr != "" && !strings.HasPrefix(stderr, "weft: still trying") {
		t.Errorf("stderr: %q", stderr)
	}

	// What can be known of this host in another way must agree.
	if b, err := os.ReadFile("/sys/kernel/security/lockdown"); err == nil {
		locked := !strings.Contains(string(b), "[none]")
		if got := rows[capGoWrites].State; got == stateUnknown || (got == stateDegraded) != locked {
			t.Errorf("go.writes is %s, and lockdown is %s", got, b)
		}
	}
	if c := rows[capGoUprobes]; c.State != stateMissing && !strings.Contains(c.Why, " µs here") {
		t.Errorf("%+v does not say what a hit costs", c)
	}
	if _, err := os.Stat("/sys/kernel/tracing/events"); err == nil {
		_, err := os.Stat("/sys/kernel/tracing/kprobe_events")
		if got := rows["capture.kprobe"].State; (err == nil) != (got == stateOK) {
			t.Errorf("capture.kprobe is %s, and kprobe_events: %v", got, err)
		}
	}
	first := "none"
	for _, way := range captureWays {
		if rows["capture."+string(way)].State == stateOK {
			first = string(way)
			break
		}
	}
	if !strings.HasPrefix(rows[capCapture].Why, first) {
		t.Errorf("the first way that works is %s: %+v", first, rows[capCapture])
	}
	if mount, err := loader.Cgroup2Mount(); err == nil {
		err := filepath.WalkDir(mount, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && d.Name() == "weft-exec-"+strconv.Itoa(os.Getpid()) {
				t.Errorf("left behind: %s", path)
			}
			return nil // other people's groups come and go
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestDoctorForcedCapture(t *testing.T) {
	needRoot(t)
	for _, way := range captureWays {
		t.Run(string(way), func(t *testing.T) {
			t.Setenv("WEFT_CAPTURE", string(way))
			status, out, _ := weft("doctor", "--json")
			rows := parseDiagnosis(t, status, out)
			works := rows["capture."+string(way)].State == stateOK
			chosen := rows[capCapture]
			if works != (chosen.State != stateMissing) || !strings.HasPrefix(chosen.Why, string(way)) || !strings.Contains(chosen.Why, "WEFT_CAPTURE") {
				t.Errorf("%s works: %t, and capture is %+v", way, works, chosen)
			}
			if !works && (status != 2 || rows[capInjection].State != stateUnknown) {
				t.Errorf("exit status %d, injection %+v", status, rows[capInjection])
			}
		})
	}
	t.Setenv("WEFT_CAPTURE", "guess")
	if status, out, stderr := weft("doctor"); status != 2 || out != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "WEFT_CAPTURE") {
		t.Errorf("a wrong WEFT_CAPTURE: %d, %q, %q", status, out, stderr)
	}
}

func TestDoctorAsNobody(t *testing.T) {
	status, out, stderr := weftAsNobody(t, "doctor", "--json")
	rows := parseDiagnosis(t, status, out)
	if status != 2 || stderr != "" {
		t.Errorf("exit status %d, stderr %q", status, stderr)
	}
	for _, name := range []string{capBPF, capRing, capTPBTF, capCapture, capSockOps, capSkMsg, capInjection, "liveness", capGoUprobes} {
		if c := rows[name]; c.State != stateUnknown || c.Why != "not tried without CAP_BPF and CAP_PERFMON" {
			t.Errorf("%+v", c)
		}
	}
	for _, use := range privilege.Uses() {
		want := stateDegraded
		if use.Required {
			want = stateMissing
		}
		if c := rows[strings.ToLower(use.Capability.String())]; c.State != want || c.Effect != use.Without {
			t.Errorf("%+v", c)
		}
	}
	// These need no root.
	for _, name := range []string{capPIDs, capBTF, capCgroup} {
		if c := rows[name]; c.State == stateUnknown {
			t.Errorf("%+v", c)
		}
	}
	_, text, _ := weftAsNobody(t, "doctor")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	last := lines[len(lines)-1]
	if v, _ := decide(slices.Collect(values(rows))); v == undecided && last != "not decided: "+runAsRoot {
		t.Errorf("last line %q", last)
	}
}

func values(rows map[string]capability) func(func(capability) bool) {
	return func(yield func(capability) bool) {
		for _, c := range rows {
			if !yield(c) {
				return
			}
		}
	}
}

// rowsWith is all rows ok, but for those given.
func rowsWith(states map[string]state) []capability {
	var rows []capability
	for _, name := range rowNames {
		s, ok := states[name]
		if !ok {
			s = stateOK
		}
		rows = append(rows, capability{Name: name, State: s, Why: "why of " + name, Effect: "effect", Mend: "mend"})
	}
	return rows
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name    string
		states  map[string]state
		verdict verdict
		status  int
		because string
	}{
		{"all is well", nil, propagates, 0, ""},
		{"tracepoint, receive program, lockdown", map[string]state{"capture.fentry": stateMissing, "capture.kprobe": stateMissing,
			capCapture: stateDegraded, capInjection: stateDegraded, capGoWrites: stateDegraded}, propagates, 0, ""},
		{"no uprobes, no adoption", map[string]state{capGoUprobes: stateMissing, "pidfd_getfd": stateMissing}, propagates, 0, ""},
		{"no cgroup v2", map[string]state{capCgroup: stateMissing, capSockOps: stateUnknown, capInjection: stateUnknown}, observes, 1, capCgroup},
		{"self-test failed", map[string]state{capInjection: stateMissing, "liveness": stateUnknown}, observes, 1, capInjection},
		{"no sk_msg", map[string]state{capSkMsg: stateMissing, capInjection: stateUnknown}, observes, 1, capSkMsg},
		{"sockops refused", map[string]state{capSockOps: stateMissing}, observes, 1, capSockOps},
		{"no capture", map[string]state{capCapture: stateMissing, capInjection: stateUnknown}, nothing, 2, capCapture},
		{"no BTF", map[string]state{capBTF: stateMissing, capTPBTF: stateUnknown, capCapture: stateUnknown}, nothing, 2, capBTF},
		{"bpf(2) refused", map[string]state{capBPF: stateMissing, capRing: stateUnknown, capCapture: stateUnknown, capInjection: stateUnknown}, nothing, 2, capBPF},
		{"other PID namespace", map[string]state{capPIDs: stateMissing}, nothing, 2, capPIDs},
		{"no root", map[string]state{"cap_bpf": stateMissing, capBPF: stateUnknown, capRing: stateUnknown, capTPBTF: stateUnknown,
			capCapture: stateUnknown, capSockOps: stateUnknown, capSkMsg: stateUnknown, capInjection: stateUnknown}, undecided, 2, capBPF},
		{"no root, no BTF", map[string]state{"cap_bpf": stateMissing, capBTF: stateMissing, capBPF: stateUnknown}, nothing, 2, capBTF},
		{"no root, no cgroup v2", map[string]state{"cap_bpf": stateMissing, capCgroup: stateMissing, capBPF: stateUnknown}, undecided, 2, capBPF},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := diagnosis{Kernel: "k", Capabilities: rowsWith(c.states)}
			var because *capability
			d.Verdict, because = decide(d.Capabilities)
			if d.Verdict != c.verdict || d.Verdict.status() != c.status {
				t.Errorf("%s, exit status %d, want %s and %d", d.Verdict, d.Verdict.status(), c.verdict, c.status)
			}
			if (because == nil) != (c.because == "") || because != nil && because.Name != c.because {
				t.Errorf("decided by %+v, want %s", because, c.because)
			}
			last := d.sentence()
			if c.because != "" && c.verdict != undecided && !strings.Contains(last, "why of "+c.because) {
				t.Errorf("the last line does not say why: %q", last)
			}
		})
	}
}

func TestDoctorText(t *testing.T) {
	d := diagnosis{Capabilities: rowsWith(map[string]state{capCapture: stateDegraded, capSkMsg: stateMissing, capGoUprobes: stateUnknown})}
	text := string(d.text(palette{}))
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	marks := map[string]string{capCapture: "~", capSkMsg: "✗", capGoUprobes: "?", capBTF: "✓"}
	column := -1
	for _, line := range lines[:len(lines)-2] {
		before, _, found := strings.Cut(line, "why of ")
		if !found {
			if s := strings.TrimSpace(line); s != "so: effect" && s != "mend: mend" {
				t.Errorf("line %q", line)
			}
			continue
		}
		at := utf8.RuneCountInString(before)
		if column < 0 {
			column = at
		}
		if at != column {
			t.Errorf("%q is not aligned: %d, want %d", line, at, column)
		}
		mark, name, _ := strings.Cut(strings.TrimSpace(before), " ")
		if want := marks[strings.TrimSpace(name)]; want != "" && mark != want {
			t.Errorf("%s is marked %s, want %s", name, mark, want)
		}
	}
	if strings.Count(text, "so: effect") != 2 || strings.Count(text, "mend: mend") != 2 {
		t.Errorf("only what is degraded or missing has an effect and a mend:\n%s", text)
	}
	if strings.Contains(text, "\x1b") {
		t.Error("colour without a terminal")
	}
	if coloured := string(d.text(palette{colour: true})); !strings.Contains(coloured, "\x1b[31m✗\x1b[0m") {
		t.Errorf("no colour: %q", coloured)
	}
}

func TestBefore(t *testing.T) {
	for _, c := range []struct {
		release string
		want    bool
	}{{"5.10.0-46-cloud-amd64", true}, {"5.11.0", false}, {"4.19.0-1-amd64", true}, {"6.1.0", false}, {"5.9", true}, {"strange", false}} {
		if got := before(c.release, 5, 11); got != c.want {
			t.Errorf("before(%q, 5, 11) = %t", c.release, got)
		}
	}
}

func TestPaintNeedsTerminal(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if paint(file).colour || paint(io.Discard).colour {
		t.Error("colour in a file")
	}
}
