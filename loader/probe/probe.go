// Package probe asks the running kernel what it can do by trying: each function
// creates the smallest object that needs one feature, attaches it if attaching
// is part of the question, and undoes that. nil means it works here and now;
// version numbers and configuration files are never asked. All but PidfdGetfd
// need the rights that loading BPF programs needs.
package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// license is that of programs that may call GPL-only helpers.
const license = "GPL"

// returns is a program that does nothing but return a value.
func returns(value int64) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, int32(value)), asm.Return()}
}

// load loads a program and keeps of a verifier's refusal what one line holds.
func load(spec *ebpf.ProgramSpec) (*ebpf.Program, error) {
	spec.License = license
	p, err := ebpf.NewProgram(spec)
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) {
		return nil, fmt.Errorf("load program: %w%s", refused.Cause, reason(refused.Log))
	}
	return p, err // cilium/ebpf says "load program: …" itself
}

// reason is the verifier's own last word, before its statistics.
func reason(log []string) string {
	for i := len(log) - 1; i >= 0; i-- {
		line := strings.TrimSpace(log[i])
		if line == "" || strings.HasPrefix(line, "processed ") || strings.HasPrefix(line, "stack depth") ||
			strings.HasPrefix(line, "verification time") {
			continue
		}
		return ": " + line
	}
	return ""
}

// BPF loads a program that needs neither BTF nor a hook: whether bpf(2) is open
// to this process at all.
func BPF() error {
	p, err := load(&ebpf.ProgramSpec{Type: ebpf.RawTracepoint, Instructions: returns(0)})
	if err != nil {
		return err
	}
	return p.Close()
}

// RingBuffer creates a ring buffer of one page.
func RingBuffer() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: uint32(os.Getpagesize())})
	if err != nil {
		return fmt.Errorf("create a ring buffer: %w", err)
	}
	return m.Close()
}

// tracing loads and attaches a do-nothing BTF program.
func tracing(attach ebpf.AttachType, to string) error {
	p, err := load(&ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: attach, AttachTo: to, Instructions: returns(0)})
	if err != nil {
		return err
	}
	defer p.Close() //nolint:errcheck // nothing to do about it
	l, err := link.AttachTracing(link.TracingOptions{Program: p, AttachType: attach})
	if err != nil {
		return fmt.Errorf("attach to %s: %w", to, err)
	}
	return l.Close()
}

// TracepointBTF attaches to a tracepoint with typed arguments.
func TracepointBTF(name string) error { return tracing(ebpf.AttachTraceRawTp, name) }

// Fentry attaches to a kernel function by a BPF trampoline.
func Fentry(function string) error { return tracing(ebpf.AttachTraceFEntry, function) }

// Kprobe attaches to a kernel function by a kprobe.
func Kprobe(function string) error {
	p, err := load(&ebpf.ProgramSpec{Type: ebpf.Kprobe, Instructions: returns(0)})
	if err != nil {
		return err
	}
	defer p.Close() //nolint:errcheck // nothing to do about it
	l, err := link.Kprobe(function, p, nil)
	var file *fs.PathError
	if errors.As(err, &file) {
		err = file // which tracefs file is missing says it all
	}
	if err != nil {
		return fmt.Errorf("attach to %s: %w", function, err)
	}
	return l.Close()
}

// WriteUser loads, and does not run, a program that calls bpf_probe_write_user.
// A missing lockdown file does not mean that it is allowed. A kernel that allows
// it says in its log that such a program was loaded. refused is true if the same
// program loads without that call, so that nothing else can be the cause.
func WriteUser() (refused bool, err error) {
	program := func(call asm.Instruction) error {
		p, err := load(&ebpf.ProgramSpec{Type: ebpf.Kprobe, Instructions: asm.Instructions{
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.Mov.Imm(asm.R1, 0),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.Mov.Imm(asm.R3, 4),
			call,
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		}})
		if err != nil {
			return err
		}
		return p.Close()
	}
	if err := program(asm.FnProbeWriteUser.Call()); err != nil {
		return program(asm.FnKtimeGetNs.Call()) == nil, err
	}
	return false, nil
}

// SockOps attaches a do-nothing sockops program to the cgroup v2 directory dir,
// which should be one that holds no process.
func SockOps(dir string) error {
	p, err := load(&ebpf.ProgramSpec{Type: ebpf.SockOps, AttachType: ebpf.AttachCGroupSockOps, Instructions: returns(1)})
	if err != nil {
		return err
	}
	defer p.Close() //nolint:errcheck // nothing to do about it
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: ebpf.AttachCGroupSockOps, Program: p})
	if err != nil {
		return fmt.Errorf("attach to cgroup %s: %w", dir, err)
	}
	return l.Close()
}

// SkMsg attaches an sk_msg program that passes everything to an empty sockhash.
func SkMsg() (err error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockHash, KeySize: 8, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("create a sockhash: %w", err)
	}
	defer m.Close() //nolint:errcheck // nothing to do about it
	p, err := load(&ebpf.ProgramSpec{Type: ebpf.SkMsg, AttachType: ebpf.AttachSkMsgVerdict, Instructions: returns(1)})
	if err != nil {
		return err
	}
	defer p.Close() //nolint:errcheck // nothing to do about it
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: m.FD(), Program: p, Attach: ebpf.AttachSkMsgVerdict,
	}); err != nil {
		return fmt.Errorf("attach to a sockhash: %w", err)
	}
	if err := link.RawDetachProgram(link.RawDetachProgramOptions{
		Target: m.FD(), Program: p, Attach: ebpf.AttachSkMsgVerdict,
	}); err != nil {
		return fmt.Errorf("detach from a sockhash: %w", err)
	}
	return nil
}

// PidfdGetfd duplicates one descriptor of another process, the parent if it has
// one that is visible, else of this process itself; foreign says which it was.
// It needs no root for this process's own, and what ptrace needs otherwise.
func PidfdGetfd() (foreign bool, err error) {
	pid, fd := os.Getpid(), 0
	if parent := os.Getppid(); parent > 0 {
		if n, ok := anyDescriptor(parent); ok {
			pid, fd, foreign = parent, n, true
		}
	}
	if !foreign {
		var own [2]int
		if err := unix.Pipe2(own[:], unix.O_CLOEXEC); err != nil {
			return false, fmt.Errorf("open a pipe: %w", err)
		}
		defer unix.Close(own[0]) //nolint:errcheck // nothing to do about it
		defer unix.Close(own[1]) //nolint:errcheck // nothing to do about it
		fd = own[0]
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return foreign, fmt.Errorf("pidfd_open of process %d: %w", pid, err)
	}
	defer unix.Close(pidfd) //nolint:errcheck // nothing to do about it
	dup, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return foreign, fmt.Errorf("pidfd_getfd from process %d: %w", pid, err)
	}
	return foreign, unix.Close(dup)
}

// anyDescriptor is some open descriptor of a process, if they can be listed.
func anyDescriptor(pid int) (fd int, ok bool) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil || len(entries) == 0 {
		return 0, false
	}
	_, err = fmt.Sscan(entries[0].Name(), &fd)
	return fd, err == nil
}
