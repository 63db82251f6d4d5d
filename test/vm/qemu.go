package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"weft/test/vm/job"
)

// machine is one boot.
type machine struct {
	kernel    *kernel
	initramfs string
	usr       string // ext4 image to mount on /usr; empty: none
	cpus      int
	memoryMB  int
	append    string            // further kernel arguments
	collect   map[string]string // guest path → host path
	deadline  time.Duration     // for all of it; the guest has its own, shorter one
	output    io.Writer         // what the command prints
	log       func(format string, args ...any)
}

// bootTimeout bounds the time until the command starts. It is long because a
// busy host emulates slowly.
const bootTimeout = 3 * time.Minute

// outcome is how a boot went.
type outcome struct {
	exit job.Exit
	up   job.Up
	boot time.Duration // QEMU start to command start
	all  time.Duration // QEMU start to power-off
}

// trouble finds what a kernel prints when it is damaged; a test that passed in
// such a kernel has not passed.
var trouble = regexp.MustCompile(`(?m)^.*(?:\bBUG: |\bOops: |Kernel panic|general protection fault|unable to handle).*$`)

func (m *machine) run(ctx context.Context) (*outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, m.deadline)
	defer cancel()
	dir, err := os.MkdirTemp("", "weft-vm-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	socket, console := filepath.Join(dir, "report"), filepath.Join(dir, "console")
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listen for reports: %w", err)
	}
	defer listener.Close()

	var complaints bytes.Buffer
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", m.arguments(socket, console)...)
	cmd.Stdout, cmd.Stderr = m.output, &complaints
	cmd.WaitDelay = 5 * time.Second
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start QEMU: %w; install qemu-system-x86", err)
	}
	type reported struct {
		out *outcome
		err error
	}
	reports := make(chan reported, 1)
	go func() {
		out, err := m.follow(listener, started, cancel)
		reports <- reported{out, err}
	}()
	waitErr := cmd.Wait()
	_ = listener.Close() // ends follow if QEMU never connected
	r := <-reports
	kernelLog, err := os.ReadFile(console)
	if err != nil {
		kernelLog = []byte(err.Error())
	}
	switch {
	case complaints.Len() > 0 && r.err != nil:
		return nil, fmt.Errorf("QEMU: %s", strings.TrimSpace(complaints.String()))
	case r.err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("no end after %s (%w); kernel console:\n%s", time.Since(started).Round(time.Second), r.err, tail(kernelLog))
	case r.err != nil:
		return nil, fmt.Errorf("%w; kernel console:\n%s", r.err, tail(kernelLog))
	case waitErr != nil:
		return nil, fmt.Errorf("QEMU: %w", waitErr)
	}
	r.out.all = time.Since(started)
	if line := trouble.Find(kernelLog); line != nil {
		return nil, fmt.Errorf("the kernel is in trouble: %s; kernel console:\n%s", bytes.TrimSpace(line), tail(kernelLog))
	}
	if bytes.Contains(kernelLog, []byte("WARNING: ")) {
		m.log("the kernel warned:\n%s", tail(kernelLog))
	}
	return r.out, nil
}

func (m *machine) arguments(socket, console string) []string {
	kernelArgs := "console=" + job.KernelConsole + " loglevel=5 panic=-1 oops=panic mitigations=off nokaslr " +
		// An emulated processor on a busy host is slow, not stuck.
		"nosoftlockup rcupdate.rcu_cpu_stall_suppress=1 tsc=reliable " +
		"random.trust_cpu=on 8250.nr_uarts=4 rdinit=/weft/init " + m.append
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot",
		"-machine", "pc,accel=tcg", "-cpu", "max,la57=off", // five-level page tables only cost time
		"-smp", strconv.Itoa(m.cpus), "-m", strconv.Itoa(m.memoryMB),
		"-kernel", m.kernel.Vmlinux, "-initrd", m.initramfs, "-append", strings.TrimSpace(kernelArgs),
		"-nic", "none",
		"-serial", "file:" + console,
		"-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out",
		"-chardev", "socket,id=report,path=" + socket, "-serial", "chardev:report",
	}
	if m.usr != "" {
		// Read-only, so that machines that run at the same time can share it.
		args = append(args, "-device", "virtio-blk-pci,drive=usr",
			"-drive", "if=none,id=usr,format=raw,readonly=on,file="+strings.ReplaceAll(m.usr, ",", ",,"))
	}
	return args
}

// follow reads reports until the guest closes the line, and cancels the boot
// when the guest does not come up.
func (m *machine) follow(listener net.Listener, started time.Time, cancel func()) (*outcome, error) {
	conn, err := listener.Accept()
	if err != nil {
		return nil, errors.New("QEMU ended before it ran anything")
	}
	defer conn.Close()
	slow := time.AfterFunc(bootTimeout, cancel)
	defer slow.Stop()
	lines := json.NewDecoder(conn)
	out := &outcome{}
	for {
		var r job.Report
		if err := lines.Decode(&r); err != nil {
			if out.boot == 0 {
				return nil, errors.New("the guest did not come up")
			}
			return nil, errors.New("the guest ended without a report")
		}
		switch {
		case r.Warning != "":
			m.log("guest: %s", r.Warning)
		case r.Up != nil:
			slow.Stop()
			out.up, out.boot = *r.Up, time.Since(started)
			m.log("%s is up after %.1f s", r.Up.Kernel, out.boot.Seconds())
		case r.Exit != nil:
			out.exit = *r.Exit
			rest := io.MultiReader(lines.Buffered(), conn)
			if _, err := rest.Read(make([]byte, 1)); err != nil { // the newline after the report
				return nil, errors.New("the guest ended inside its report")
			}
			return out, m.receive(rest)
		}
	}
}

// receive unpacks what the guest sent back.
func (m *machine) receive(r io.Reader) error {
	archive := tar.NewReader(r)
	arrived := map[string]bool{}
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("receive files: %w", err)
		}
		name := "/" + header.Name
		for _, guest := range sortedKeys(m.collect) {
			rel, err := filepath.Rel(guest, name)
			if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
				continue
			}
			if err := store(filepath.Join(m.collect[guest], rel), archive); err != nil {
				return fmt.Errorf("receive %s: %w", name, err)
			}
			arrived[guest] = true
			break
		}
	}
	for _, guest := range sortedKeys(m.collect) {
		if !arrived[guest] {
			m.log("nothing came back from %s", guest)
		}
	}
	_, _ = io.Copy(io.Discard, r) // padding; QEMU must not block on a full socket
	return nil
}

func store(path string, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// tail is the end of a kernel log, as much as helps.
func tail(text []byte) string {
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(text), "\r", "")), "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "\n")
}
