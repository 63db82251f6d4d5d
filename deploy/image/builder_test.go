package image

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	version  = "v1.2.3-test"
	revision = "0123456789abcdef0123456789abcdef01234567"
)

// buildLimit bounds one build: two cores with nothing else to do compile the agent
// from nothing in about a minute.
const buildLimit = 15 * time.Minute

// builder is buildah with a store of its own, and one copy of the sources.
type builder struct {
	dir, sources, goRoot, goCache, goModCache, arch string
	count                                           int
}

// newBuilder skips where buildah or the right to use it is missing; not in CI,
// where .ci/run installs it.
func newBuilder(t *testing.T) *builder {
	t.Helper()
	skip := t.Skipf
	if os.Getenv("CI") == "true" {
		skip = t.Fatalf
	}
	if os.Geteuid() != 0 {
		skip("needs root: the build stage runs in a chroot with /usr of this machine; sudo make test-root")
	}
	if _, err := exec.LookPath("buildah"); err != nil {
		skip("needs buildah: apt-get install buildah")
	}
	b := &builder{dir: t.TempDir(), arch: runtime.GOARCH, goRoot: goEnv(t, "GOROOT"), goCache: goEnv(t, "GOCACHE"), goModCache: goEnv(t, "GOMODCACHE")}
	// Builds compare only if nobody edits between them.
	b.sources = filepath.Join(b.dir, "sources")
	copySources(t, b.sources)
	return b
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	text, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatalf("go env %s: %v", name, err)
	}
	return strings.TrimSpace(string(text))
}

// copySources copies the checkout without what no build needs and what may be huge.
// .dockerignore comes along and does the rest.
func copySources(t *testing.T, to string) {
	t.Helper()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		target := filepath.Join(to, name)
		switch {
		case entry.IsDir() && (name == ".git" || name == "bin" || name == "test"):
			return filepath.SkipDir
		case entry.IsDir():
			return os.MkdirAll(target, 0o755)
		case !entry.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) { // edited meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(target, text, 0o644)
	})
	if err != nil {
		t.Fatalf("copy the sources: %v", err)
	}
}

// command runs on a store below the test's own folder. vfs copies where overlay
// would mount, and so works in any container.
func (b *builder) command(ctx context.Context, args ...string) *exec.Cmd {
	global := []string{"--root", filepath.Join(b.dir, "store"), "--runroot", filepath.Join(b.dir, "run"), "--storage-driver", "vfs"}
	cmd := exec.CommandContext(ctx, "buildah", append(global, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+b.dir)
	// It starts children of its own: all of them end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// bounded ends before the test binary is ended, which would leave children behind.
func bounded(t *testing.T, limit time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	at := time.Now().Add(limit)
	if end, ok := t.Deadline(); ok && at.After(end.Add(-30*time.Second)) {
		at = end.Add(-30 * time.Second)
	}
	return context.WithDeadline(t.Context(), at)
}

func (b *builder) buildah(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := bounded(t, buildLimit)
	defer cancel()
	var said strings.Builder
	cmd := b.command(ctx, args...)
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("buildah %s: %v\n%s\n%s", strings.Join(args, " "), err, out, &said)
	}
	return strings.TrimSpace(string(out))
}

// base makes the image that the first stage is made from: links into /usr, which
// is this machine's.
func (b *builder) base(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(b.sources, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	goVersion := regexp.MustCompile(`(?m)^ARG GO_VERSION=(\S+)$`).FindSubmatch(text)
	if goVersion == nil {
		t.Fatal("the Dockerfile has no ARG GO_VERSION")
	}
	root := filepath.Join(b.dir, "base")
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "tmp"), 0o755), os.Mkdir(filepath.Join(root, "root"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+name, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	container := b.buildah(t, "from", "scratch")
	b.buildah(t, "copy", "--quiet", container, root, "/")
	b.buildah(t, "config", "--env", "PATH="+b.goRoot+"/bin:/usr/bin", "--env", "GOPATH=/go", "--env", "GOCACHE=/go/cache", "--env", "GOTOOLCHAIN=local",
		"--env", "GOPROXY="+goEnv(t, "GOPROXY"), "--env", "GOSUMDB="+goEnv(t, "GOSUMDB"), container)
	b.buildah(t, "commit", "--quiet", "--rm", container, "docker.io/library/golang:"+string(goVersion[1])+"-bookworm")
}

// file is an entry of an image's layers.
type file struct {
	*tar.Header
	text []byte
}

// image is what a build made: its parts as in the OCI image specification.
type image struct {
	name, reference  string
	files            map[string]*file
	layers           []string // digests of the uncompressed layers
	digest           string   // of the configuration, which names the layers
	size, compressed int64    // bytes of all layers
	rawConfig        []byte
	config           struct {
		Architecture, OS string
		Config           struct {
			User, WorkingDir     string
			Env, Entrypoint, Cmd []string
			Labels               map[string]string
		}
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
}

// build makes one target ("": the default) for one architecture with goCache as
// Go's build cache, and reads what came out.
func (b *builder) build(t *testing.T, target, arch, goCache string) *image {
	t.Helper()
	b.count++
	i := &image{name: arch, reference: fmt.Sprintf("localhost/weft:%d", b.count), files: map[string]*file{}}
	args := []string{"build", "--quiet", "--isolation", "chroot", "--pull-never", "--timestamp", "0", "--platform", "linux/" + arch,
		"--build-arg", "BUILDPLATFORM=linux/" + b.arch, // buildah 1.28 does not know it by itself
		"--volume", "/usr:/usr:ro", "--volume", "/etc/ssl:/etc/ssl:ro", "--volume", b.goModCache + ":/go/pkg/mod",
		"--volume", goCache + ":/go/cache", "--build-arg", "VERSION=" + version, "--build-arg", "REVISION=" + revision}
	if !strings.HasPrefix(b.goRoot, "/usr/") {
		args = append(args, "--volume", b.goRoot+":"+b.goRoot+":ro")
	}
	if target != "" {
		i.name += "-" + target
		args = append(args, "--target", target)
	}
	began := time.Now()
	b.buildah(t, append(args, "--tag", i.reference, b.sources)...)
	t.Logf("%s built in %.0f s", i.name, time.Since(began).Seconds())
	layout := filepath.Join(b.dir, fmt.Sprint("layout", b.count))
	b.buildah(t, "push", "--quiet", i.reference, "oci:"+layout+":it")
	i.open(t, layout)
	return i
}

// open reads an image from an OCI layout.
func (i *image) open(t *testing.T, layout string) {
	t.Helper()
	type descriptor struct {
		Digest string
		Size   int64
	}
	blob := func(d descriptor) string {
		return filepath.Join(layout, "blobs", strings.Replace(d.Digest, ":", "/", 1))
	}
	var index struct{ Manifests []descriptor }
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	unmarshal(t, filepath.Join(layout, "index.json"), &index)
	if len(index.Manifests) != 1 {
		t.Fatalf("%d images in the layout", len(index.Manifests))
	}
	unmarshal(t, blob(index.Manifests[0]), &manifest)
	i.rawConfig = unmarshal(t, blob(manifest.Config), &i.config)
	i.digest, i.layers = manifest.Config.Digest, i.config.RootFS.DiffIDs
	if len(i.layers) != len(manifest.Layers) || len(i.layers) == 0 {
		t.Fatalf("%d layers, %d in the configuration", len(manifest.Layers), len(i.layers))
	}
	for _, l := range manifest.Layers {
		i.compressed += l.Size
		i.unpack(t, blob(l))
	}
}

func (i *image) unpack(t *testing.T, layer string) {
	t.Helper()
	f, err := os.Open(layer)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	plain, err := gzip.NewReader(f)
	if err != nil {
		t.Fatalf("layer: %v", err)
	}
	for entries := tar.NewReader(plain); ; {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("layer: %v", err)
		}
		text, err := io.ReadAll(entries)
		if err != nil {
			t.Fatalf("layer: %s: %v", header.Name, err)
		}
		name := strings.Trim(header.Name, "/")
		if old := i.files[name]; old != nil && header.Typeflag != tar.TypeDir {
			t.Errorf("%s is in two layers: a node keeps it twice", name)
		}
		i.files[name] = &file{header, text}
		i.size += header.Size
	}
}

func unmarshal(t *testing.T, name string, into any) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, text)
	}
	return text
}

func (i *image) read(t *testing.T, name string) []byte {
	t.Helper()
	f := i.files[name]
	if f == nil {
		t.Fatalf("no %s in the image", name)
	}
	return f.text
}

// result is how a run ended: exit status and all that it wrote.
type result struct {
	status int
	output string
}

// run executes the image's entry point in a container of the image that is granted
// these capabilities alone, in the host's namespaces and without a seccomp profile.
func (b *builder) run(t *testing.T, i *image, capabilities []string, args ...string) result {
	t.Helper()
	from := []string{"from", "--pull-never", "--isolation", "chroot", "--security-opt", "seccomp=unconfined", "--cap-drop", "all"}
	for _, c := range capabilities {
		from = append(from, "--cap-add", c)
	}
	container := b.buildah(t, append(from, i.reference)...)
	defer b.buildah(t, "rm", container)
	command := append([]string{"run", "--isolation", "chroot", container, "--"}, i.config.Config.Entrypoint...)
	ctx, cancel := bounded(t, 2*time.Minute)
	defer cancel()
	return finish(t, b.command(ctx, append(command, args...)...))
}

// onHost runs the agent here, as it is.
func (b *builder) onHost(t *testing.T, agent []byte, args ...string) result {
	t.Helper()
	file := filepath.Join(t.TempDir(), "weft")
	if err := os.WriteFile(file, agent, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := bounded(t, 2*time.Minute)
	defer cancel()
	return finish(t, exec.CommandContext(ctx, file, args...))
}

func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() < 0) {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return result{cmd.ProcessState.ExitCode(), string(out)}
}
