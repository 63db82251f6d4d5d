// Package deploy tests what is shipped: the image's build line and layout, and
// the unit file. Not tested here, for want of a container engine: pulling the
// base image, its certificates, and running the finished image.
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

// context copies the build context as `COPY . .` would, without what is ignored.
func context(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	ignored, err := os.ReadFile("../.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-C", "..", "-cf", "-"}
	for line := range strings.Lines(string(ignored)) {
		if line = strings.TrimSpace(line); line != "" {
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

// build runs the Dockerfile's build line in dir and returns the binary. An
// empty cache proves that nothing of another build was used again.
func build(t *testing.T, dir, arch, cache string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "weft")
	line := buildLine(t)
	moved := strings.Replace(line, "-o /out/weft", "-o "+out, 1)
	if moved == line {
		t.Fatalf("the build line does not write /out/weft: %s", line)
	}
	cmd := exec.Command("/bin/sh", "-ec", moved)
	cmd.Dir = dir
	for _, kv := range os.Environ() { // the image has none of ours
		if name, _, _ := strings.Cut(kv, "="); !strings.HasPrefix(name, "GO") && !strings.HasPrefix(name, "CGO") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "TARGETOS=linux", "TARGETARCH="+arch, "VERSION=v1.2.3-test", "GOTOOLCHAIN=local",
		"GOMODCACHE="+goEnv(t, "GOMODCACHE"), "GOPROXY="+goEnv(t, "GOPROXY"), "GOCACHE="+cache)
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

// TestImageBinaryIsReproducible runs the image's build twice in different
// places and compares every byte. With CI=true the second has an empty build
// cache, which takes minutes.
func TestImageBinaryIsReproducible(t *testing.T) {
	first, second := context(t), context(t)
	cache := goEnv(t, "GOCACHE")
	other := cache
	if os.Getenv("CI") == "true" {
		other = t.TempDir()
	}
	a, b := build(t, first, runtime.GOARCH, cache), build(t, second, runtime.GOARCH, other)
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
}

// TestImageBinaryIsStatic: an image made from nothing has no loader and no
// libraries.
func TestImageBinaryIsStatic(t *testing.T) {
	dir, cache := context(t), goEnv(t, "GOCACHE")
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		t.Run(arch, func(t *testing.T) {
			file := build(t, dir, arch, cache)
			f, err := elf.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if f.Machine != machine {
				t.Errorf("built for %s, want %s", f.Machine, machine)
			}
			for _, p := range f.Progs {
				if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
					t.Errorf("has a %s segment: it needs a dynamic linker", p.Type)
				}
			}
			if f.Section(".symtab") != nil || f.Section(".debug_info") != nil {
				t.Error("is not stripped")
			}
			info, err := buildinfo.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			settings := map[string]string{}
			for _, s := range info.Settings {
				settings[s.Key] = s.Value
			}
			for key, want := range map[string]string{"CGO_ENABLED": "0", "-trimpath": "true", "GOARCH": arch, "GOOS": "linux"} {
				if settings[key] != want {
					t.Errorf("built with %s=%q, want %q", key, settings[key], want)
				}
			}
		})
	}
}

// TestImageLayout checks what the finished image consists of.
func TestImageLayout(t *testing.T) {
	lines := dockerfile(t)
	last := 0
	for i, l := range lines {
		if l.name == "FROM" {
			last = i
		}
	}
	if lines[last].text != "scratch" {
		t.Errorf("the image is made from %q, want scratch", lines[last].text)
	}
	targets := map[string]string{}
	for _, l := range lines[last:] {
		if l.name == "COPY" {
			words := strings.Fields(l.text)
			if len(words) != 3 || words[0] != "--from=build" {
				t.Errorf("COPY %s: want --from=build SOURCE TARGET", l.text)
				continue
			}
			targets[words[2]] = words[1]
		}
	}
	if targets["/usr/bin/weft"] != "/out/weft" {
		t.Errorf("/usr/bin/weft is %q, want what the build line writes", targets["/usr/bin/weft"])
	}
	if targets["/etc/ssl/certs/ca-certificates.crt"] == "" {
		t.Error("no certificates: OTLP over TLS could not work")
	}
	for _, want := range []instruction{
		{"ENTRYPOINT", `["/usr/bin/weft"]`},
		{"CMD", `["run", "--config", "/etc/weft/weft.yaml"]`},
	} {
		if !slices.Contains(lines[last:], want) {
			t.Errorf("no %s %s", want.name, want.text)
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
