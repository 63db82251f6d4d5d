// Command vm runs a program in a Debian kernel under QEMU, emulated, so that it
// needs neither KVM nor root, and exits with the program's status. See README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"weft/test/vm/job"
)

// failed is the exit status for the runner's own errors; the program's own
// status is passed through.
const failed = 125

const usage = `usage: go run ./test/vm [flags] -- PROGRAM [ARG…]

Runs PROGRAM in a Debian kernel under QEMU and exits with its status. PROGRAM is
a static binary of this machine (a path), or a name found in the guest (with
-userland). Several kernels, as in -kernel 5.10,6.1, run one after the other.

`

type options struct {
	kernels  []string
	add, get []string
	env      []string
	modules  []string
	packages []string
	userland bool
	fetch    bool
	refresh  bool
	append   string
	cache    string
	cpus     int
	memoryMB int
	timeout  time.Duration
	argv     []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	o, err := parse(os.Args[1:])
	if err == nil {
		var status int
		status, err = run(ctx, o, os.Stdout)
		if err == nil {
			stop()
			os.Exit(status)
		}
	}
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "vm:", err)
	os.Exit(failed)
}

func parse(args []string) (*options, error) {
	o := &options{packages: defaultPackages, modules: []string{"tls", "inet_diag", "tcp_diag", "veth"}}
	f := flag.NewFlagSet("vm", flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprint(f.Output(), usage)
		f.PrintDefaults()
	}
	list := func(into *[]string) func(string) error {
		return func(s string) error {
			*into = strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
			return nil
		}
	}
	more := func(into *[]string) func(string) error {
		return func(s string) error { *into = append(*into, s); return nil }
	}
	o.kernels = []string{"6.1"}
	f.Func("kernel", "Debian kernel `series`: 5.10, 6.1, 6.12, 6.18, 6.12.90, newest (default 6.1)", list(&o.kernels))
	f.Func("add", "put a file or directory of this machine into the guest: `HOST[:GUEST]`; repeatable", more(&o.add))
	f.Func("get", "fetch a file or directory when the program has ended: `GUEST:HOST`; repeatable", more(&o.get))
	f.Func("env", "set a variable in the guest: `NAME=VALUE`, or NAME to pass it on; repeatable", more(&o.env))
	f.BoolVar(&o.userland, "userland", false, "add Debian userland: python3 with flask and gunicorn, node with express, nginx, curl, sh")
	f.Func("packages", "Debian `packages` of the userland (default "+strings.Join(defaultPackages, ",")+")", func(s string) error {
		o.userland = true
		return list(&o.packages)(s)
	})
	f.Func("modules", "kernel `modules` to load, with what they depend on (default "+strings.Join(o.modules, ",")+")", list(&o.modules))
	f.StringVar(&o.append, "append", "", "further kernel `arguments`, such as lockdown=integrity")
	f.IntVar(&o.cpus, "cpus", 2, "virtual processors")
	f.IntVar(&o.memoryMB, "memory", 2048, "memory in MiB")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "for the program; it then gets SIGQUIT, and SIGKILL 5 s later")
	f.StringVar(&o.cache, "cache", os.Getenv("WEFT_VM_CACHE"), "where kernels and userland are kept (default $WEFT_VM_CACHE, or test/vm/cache)")
	f.BoolVar(&o.refresh, "refresh", false, "look for newer packages now instead of after a week")
	f.BoolVar(&o.fetch, "fetch", false, "only fetch kernels and userland, run nothing")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.argv = f.Args()
	switch {
	case len(o.argv) == 0 && !o.fetch:
		return nil, errors.New("no program to run; go run ./test/vm -help shows how")
	case o.cpus < 1:
		return nil, fmt.Errorf("-cpus %d: want at least 1", o.cpus)
	case o.memoryMB < 256:
		return nil, fmt.Errorf("-memory %d: want at least 256 MiB", o.memoryMB)
	case o.timeout < time.Second:
		return nil, fmt.Errorf("-timeout %s: want at least 1s", o.timeout)
	case len(o.kernels) == 0:
		return nil, errors.New("-kernel: empty; want a series such as 6.1")
	}
	for _, g := range o.get {
		if guest, host, ok := strings.Cut(g, ":"); !ok || host == "" || !path.IsAbs(guest) {
			return nil, fmt.Errorf("-get %s: want GUEST:HOST, GUEST an absolute path", g)
		}
	}
	return o, nil
}

func run(ctx context.Context, o *options, stdout io.Writer) (int, error) {
	log := func(format string, args ...any) { fmt.Fprintf(os.Stderr, "vm: "+format+"\n", args...) }
	cache, err := cacheDir(ctx, o.cache)
	if err != nil {
		return 0, err
	}
	kernels, land, err := fetch(ctx, o, cache, log)
	if err != nil {
		return 0, err
	}
	if o.fetch {
		for _, k := range kernels {
			fmt.Fprintln(stdout, k.Release, k.Version, filepath.Dir(k.Vmlinux))
		}
		return 0, nil
	}
	dir, err := os.MkdirTemp("", "weft-vm-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	init := filepath.Join(dir, "init")
	if err := buildInit(ctx, init); err != nil {
		return 0, err
	}
	status := 0
	for _, k := range kernels {
		out, err := boot(ctx, o, k, init, land, stdout, log)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", k.Release, err)
		}
		ending := fmt.Sprintf("exit status %d", out.exit.Status)
		if out.exit.Signal != "" {
			ending += " (" + out.exit.Signal + ")"
		}
		if out.exit.TimeOut {
			ending += fmt.Sprintf(", stopped after %s", o.timeout)
		}
		log("%s: %s; boot %.1f s, all %.1f s", k.Release, ending, out.boot.Seconds(), out.all.Seconds())
		if status == 0 {
			status = out.exit.Status
			if out.exit.TimeOut && status == 0 {
				status = 124 // as timeout(1)
			}
		}
	}
	return status, nil
}

// fetch makes sure that the cache holds what the run needs. Runs that share a
// cache take turns here, and only here.
func fetch(ctx context.Context, o *options, cache string, log func(string, ...any)) ([]*kernel, *userland, error) {
	lock, err := os.Create(filepath.Join(cache, "lock"))
	if err != nil {
		return nil, nil, err
	}
	defer lock.Close() // unlocks
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		log("waiting for another run that is fetching into %s", cache)
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
			return nil, nil, fmt.Errorf("lock %s: %w", cache, err)
		}
	}
	var land *userland
	if o.userland {
		if land, err = buildUserland(ctx, cache, o.packages, o.refresh, log); err != nil {
			return nil, nil, fmt.Errorf("userland: %w", err)
		}
	}
	var kernels []*kernel
	for _, series := range o.kernels {
		k, err := fetchKernel(ctx, cache, series, o.refresh, log)
		if err != nil {
			return nil, nil, err
		}
		kernels = append(kernels, k)
	}
	return kernels, land, nil
}

func boot(ctx context.Context, o *options, k *kernel, init string, land *userland, stdout io.Writer, log func(string, ...any)) (*outcome, error) {
	dir, err := os.MkdirTemp("", "weft-vm-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	initramfs := filepath.Join(dir, "initramfs")
	if err := pack(o, k, init, land, initramfs, log); err != nil {
		return nil, fmt.Errorf("pack initramfs: %w", err)
	}
	collect := map[string]string{}
	for _, g := range o.get {
		guest, host, _ := strings.Cut(g, ":")
		collect[path.Clean(guest)] = host
	}
	log("booting %s", k.Release)
	m := &machine{
		kernel: k, initramfs: initramfs, cpus: o.cpus, memoryMB: o.memoryMB, append: o.append, collect: collect,
		deadline: bootTimeout + o.timeout + time.Minute, output: stdout, log: log,
	}
	if land != nil {
		m.usr = land.usr
	}
	return m.run(ctx)
}

// pack writes what the userland has outside /usr, and over it what this run adds.
func pack(o *options, k *kernel, init string, land *userland, file string, log func(string, ...any)) error {
	names := o.modules
	if land != nil {
		names = append([]string{"virtio_pci", "virtio_blk"}, names...)
	}
	modules, missing, err := resolveModules(k.Modules, names)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		log("%s has no module %s", k.Release, strings.Join(missing, ", "))
	}
	j := job.Job{Dir: "/root", Usr: land != nil,
		TimeoutSeconds: int(o.timeout / time.Second), UnixTime: time.Now().Unix(), Argv: slices.Clone(o.argv)}
	j.Env = []string{
		"PATH=/weft/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "LANG=C.UTF-8", "TERM=dumb", "TMPDIR=/tmp",
		"NODE_PATH=/usr/share/nodejs:/usr/lib/nodejs", "WEFT_VM_KERNEL=" + k.Release,
	}
	for _, kv := range o.env {
		if !strings.Contains(kv, "=") {
			kv += "=" + os.Getenv(kv)
		}
		j.Env = append(j.Env, kv)
	}
	for _, g := range o.get {
		guest, _, _ := strings.Cut(g, ":")
		j.Collect = append(j.Collect, path.Clean(guest))
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	if land != nil {
		in, err := os.Open(land.rest)
		if err != nil {
			return err
		}
		defer in.Close()
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
	a := newArchive(out)
	if err := baseFiles(a); err != nil {
		return err
	}
	if err := a.tree(init, "/weft/init"); err != nil {
		return err
	}
	for _, m := range modules {
		name := "/weft/modules/" + m.name + ".ko"
		if err := a.file(name, 0o644, m.text); err != nil {
			return err
		}
		j.Modules = append(j.Modules, name)
	}
	if strings.ContainsRune(o.argv[0], '/') { // a program of this machine, not one of the guest's
		if _, err := os.Stat(o.argv[0]); err == nil {
			j.Argv[0] = "/weft/bin/" + filepath.Base(o.argv[0])
			if err := a.tree(o.argv[0], j.Argv[0]); err != nil {
				return err
			}
		} else if land == nil {
			return err
		}
	}
	for _, pair := range o.add {
		host, guest, ok := strings.Cut(pair, ":")
		if !ok {
			guest = host
		}
		if !path.IsAbs(guest) {
			guest = path.Join(j.Dir, guest)
		}
		if land != nil && (guest == "/usr" || strings.HasPrefix(path.Clean(guest), "/usr/")) {
			return fmt.Errorf("add %s: /usr is the userland's, read-only; choose another place such as /opt", pair)
		}
		if err := a.tree(host, guest); err != nil {
			return fmt.Errorf("add %s: %w", pair, err)
		}
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	if err := a.file(job.Path, 0o644, text); err != nil {
		return err
	}
	if err := a.close(); err != nil {
		return err
	}
	return out.Close()
}

// cacheDir is the folder for what is fetched and built, made if missing.
func cacheDir(ctx context.Context, dir string) (string, error) {
	if dir == "" {
		mod, err := output(exec.CommandContext(ctx, "go", "env", "GOMOD"))
		if err != nil {
			return "", err
		}
		root := filepath.Dir(strings.TrimSpace(string(mod)))
		if _, err := os.Stat(filepath.Join(root, "test", "vm")); err != nil {
			return "", errors.New("not inside the source tree; set WEFT_VM_CACHE or -cache")
		}
		dir = filepath.Join(root, "test", "vm", "cache")
	}
	dir, err := filepath.Abs(dir) // apt changes directory
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// buildInit compiles the guest's init; Go's build cache makes that quick.
func buildInit(ctx context.Context, file string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "weft/test/vm/init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if _, err := output(cmd); err != nil {
		return fmt.Errorf("build init: %w", err)
	}
	return nil
}
