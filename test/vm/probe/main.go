//go:build linux

// Command probe prints what a kernel offers weft: the first thing to run when
// a new kernel is added to the test matrix.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

func main() {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		fmt.Fprintln(os.Stderr, "probe: uname:", err)
		os.Exit(1)
	}
	failed := false
	show := func(what string, err error) {
		if err == nil {
			fmt.Printf("%-16s ok\n", what)
			return
		}
		failed = true
		fmt.Printf("%-16s %v\n", what, err)
	}
	fmt.Printf("%-16s %s\n", "kernel", unix.ByteSliceToString(u.Release[:]))
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	show("BTF", err)
	_, err = os.Stat("/sys/fs/cgroup/cgroup.procs")
	show("cgroup2", err)
	show("bpf(2)", load())
	_, err = os.Stat("/sys/kernel/tracing/events")
	show("tracefs", err)
	// What follows differs between kernels and fails nothing.
	for _, f := range []struct {
		what string
		err  error
	}{
		{"ring buffer", features.HaveMapType(ebpf.RingBuf)},
		{"sk storage", features.HaveMapType(ebpf.SkStorage)},
		{"task storage", features.HaveMapType(ebpf.TaskStorage)},
		{"sk_msg", features.HaveProgramType(ebpf.SkMsg)},
		{"kprobe", features.HaveProgramType(ebpf.Kprobe)},
		{"fentry", features.HaveProgramType(ebpf.Tracing)},
		{"bpf_loop", features.HaveProgramHelper(ebpf.SocketFilter, asm.FnLoop)},
	} {
		answer := "yes"
		switch {
		case errors.Is(f.err, ebpf.ErrNotSupported):
			answer = "no"
		case f.err != nil:
			answer = f.err.Error()
		}
		fmt.Printf("%-16s %s\n", f.what, answer)
	}
	if failed {
		os.Exit(1)
	}
}

// load loads the shortest program there is.
func load() error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SocketFilter,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		License:      "GPL",
	})
	if err != nil {
		return err
	}
	return program.Close()
}
