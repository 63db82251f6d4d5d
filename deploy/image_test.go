// Package deploy tests what is shipped and needs no root for it: the image's build
// line and stages, and the unit file. deploy/image builds the image itself.
package deploy

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// instruction is one line of a Dockerfile.
type instruction struct{ name, text string }

func dockerfile(t *testing.T) []instruction {
	t.Helper()
	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var out []instruction
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", " ")) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, rest, _ := strings.Cut(line, " ")
		out = append(out, instruction{name, strings.TrimSpace(rest)})
	}
	return out
}

// buildLine is the RUN instruction that builds the agent.
func buildLine(t *testing.T) string {
	t.Helper()
	var found []string
	for _, i := range dockerfile(t) {
		if i.name == "RUN" && strings.Contains(i.text, "go build") {
			found = append(found, i.text)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d RUN instructions with go build, want one: %q", len(found), found)
	}
	return found[0]
}

// sources copies what the build stage sees of the checkout: `COPY . .` without what
// .dockerignore names.
func sources(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	ignored, err := os.ReadFile("../.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-C", "..", "-cf", "-"}
	for line := range strings.Lines(string(ignored)) {
		line = strings.TrimSpace(line)
		switch anywhere, ok := strings.CutPrefix(line, "**/"); {
		case line == "" || line[0] == '#':
		case ok:
			args = append(args, "--exclude="+anywhere)
		default:
			args = append(args, "--exclude=./"+line)
		}
	}
	pack := exec.Command("tar", append(args, ".")...)
	unpack := exec.Command("tar", "-C", dir, "-xf", "-")
	pipe, err := pack.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	unpack.Stdin = pipe
	var packing, unpacking bytes.Buffer
	pack.Stderr, unpack.Stderr = &packing, &unpacking
	if err := unpack.Start(); err != nil {
		t.Fatal(err)
	}
	// A file may change while it is read (status 1) where others work.
	if err := pack.Run(); err != nil && pack.ProcessState.ExitCode() > 1 {
		t.Fatalf("pack: %v\n%s", err, &packing)
	}
	if err := unpack.Wait(); err != nil {
		t.Fatalf("unpack: %v\n%s", err, &unpacking)
	}
	return dir
}

// build runs the Dockerfile's build line in dir and returns the binary.
func build(t *testing.T, dir string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "weft")
	line := buildLine(t)
	moved := strings.Replace(line, "-o /out/usr/bin/weft", "-o "+out, 1)
	if moved == line {
		t.Fatalf("the build line does not write /out/usr/bin/weft: %s", line)
	}
	cmd := exec.Command("/bin/sh", "-ec", moved)
	cmd.Dir = dir
	for _, kv := range os.Environ() { // the image has none of ours
		if name, _, _ := strings.Cut(kv, "="); !strings.HasPrefix(name, "GO") && !strings.HasPrefix(name, "CGO") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "TARGETOS=linux", "TARGETARCH="+runtime.GOARCH, "VERSION=v1.2.3-test", "GOTOOLCHAIN=local",
		"GOMODCACHE="+goEnv(t, "GOMODCACHE"), "GOPROXY="+goEnv(t, "GOPROXY"), "GOCACHE="+goEnv(t, "GOCACHE"))
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", moved, err, text)
	}
	return out
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	text, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatalf("go env %s: %v", name, err)
	}
	return strings.TrimSpace(string(text))
}

// TestImageBinary runs the image's build line in two folders: the bytes are the
// same, static, and know nothing of the folder. It shares Go's build cache with
// everything else; the build from an empty one is deploy/image's.
func TestImageBinary(t *testing.T) {
	first, second := sources(t), t.TempDir()
	if err := os.CopyFS(second, os.DirFS(first)); err != nil { // not ours again: it may be edited meanwhile
		t.Fatal(err)
	}
	a, b := build(t, first), build(t, second)
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Errorf("two builds differ: %x (%d bytes), %x (%d bytes)", sha256.Sum256(x), len(x), sha256.Sum256(y), len(y))
	}
	if bytes.Contains(x, []byte(first)) {
		t.Errorf("the binary names the folder it was built in: is -trimpath in the build line?")
	}
	out, err := exec.Command(a, "version").CombinedOutput()
	if err != nil || !bytes.HasPrefix(out, []byte("weft v1.2.3-test\n")) {
		t.Errorf("weft version: %v\n%s", err, out)
	}

	f, err := elf.Open(a)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("has a %s segment: it needs a dynamic linker", p.Type)
		}
	}
	if f.Section(".symtab") != nil || f.Section(".debug_info") != nil {
		t.Error("is not stripped")
	}
	info, err := buildinfo.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	for key, want := range map[string]string{"CGO_ENABLED": "0", "-trimpath": "true", "GOARCH": runtime.GOARCH, "GOOS": "linux"} {
		if settings[key] != want {
			t.Errorf("built with %s=%q, want %q", key, settings[key], want)
		}
	}
}

// TestImageStages: what becomes an image is made from nothing, and says who runs
// it. What is in it, deploy/image sees.
func TestImageStages(t *testing.T) {
	type stage struct{ from, user string }
	stages, last := map[string]*stage{}, ""
	for _, l := range dockerfile(t) {
		switch l.name {
		case "FROM":
			words := strings.Fields(l.text)
			if len(words) < 3 || words[len(words)-2] != "AS" {
				t.Fatalf("FROM %s: every stage has a name here", l.text)
			}
			last = words[len(words)-1]
			stages[last] = &stage{from: words[len(words)-3]}
		case "USER":
			stages[last].user = l.text
		}
	}
	if last != "weft" {
		t.Errorf("the last stage, which is built by default, is %q", last)
	}
	for name, user := range map[string]string{"weft": "0:0", "nonroot": "65532:65532"} {
		s := stages[name]
		if s == nil {
			t.Errorf("no stage %s", name)
			continue
		}
		from := s.from
		for stages[from] != nil {
			from = stages[from].from
		}
		if from != "scratch" {
			t.Errorf("%s is made from %q, want scratch", name, from)
		}
		if s.user != user {
			t.Errorf("%s runs as %q, want %q", name, s.user, user)
		}
	}
}

// TestImageGoVersion: the builder must be able to compile what go.mod asks for;
// GOTOOLCHAIN is local in its image.
func TestImageGoVersion(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	wanted := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(mod)
	if wanted == nil {
		t.Fatal("go.mod has no go line")
	}
	if !slices.Contains(dockerfile(t), instruction{"ARG", "GO_VERSION=" + string(wanted[1])}) {
		t.Errorf("the Dockerfile has no ARG GO_VERSION=%s, which go.mod asks for", wanted[1])
	}
}

// TestUnit checks the systemd unit: what it starts exists in the command line,
// and it grants what loading, attaching and looking at processes need.
func TestUnit(t *testing.T) {
	text, err := os.ReadFile("weft.service")
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && key[0] != '#' {
			if _, twice := settings[key]; twice {
				t.Errorf("%s is set twice", key)
			}
			settings[key] = value
		}
	}
	if want := "/usr/bin/weft run --config /etc/weft/weft.yaml"; settings["ExecStart"] != want {
		t.Errorf("ExecStart=%s, want %s", settings["ExecStart"], want)
	}
	granted := strings.Fields(settings["CapabilityBoundingSet"])
	for _, c := range []string{"CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_SYS_PTRACE"} {
		if !slices.Contains(granted, c) {
			t.Errorf("CapabilityBoundingSet lacks %s", c)
		}
	}
	if slices.Contains(granted, "CAP_SYS_ADMIN") {
		t.Error("CapabilityBoundingSet has CAP_SYS_ADMIN, which is not needed")
	}
}
