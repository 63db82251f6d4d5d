//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"weft/test/vm/job"
)

// mountAll mounts what programs and weft look for. What a kernel lacks is a
// warning: the command will say what it misses.
func mountAll() []string {
	var warnings []string
	for _, m := range []struct{ source, target, kind, options string }{
		{"proc", "/proc", "proc", ""},
		{"sysfs", "/sys", "sysfs", ""},
		{"devtmpfs", "/dev", "devtmpfs", ""},
		{"devpts", "/dev/pts", "devpts", "mode=620,ptmxmode=666"},
		{"tmpfs", "/dev/shm", "tmpfs", "mode=1777"},
		{"tmpfs", "/tmp", "tmpfs", "mode=1777"},
		{"tmpfs", "/run", "tmpfs", "mode=755"},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", ""},
		{"bpf", "/sys/fs/bpf", "bpf", ""},
		{"tracefs", "/sys/kernel/tracing", "tracefs", ""},
		{"debugfs", "/sys/kernel/debug", "debugfs", ""},
		{"securityfs", "/sys/kernel/security", "securityfs", ""},
	} {
		// In sysfs the directory is the kernel's to make: no directory, no mount.
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			warnings = append(warnings, fmt.Sprintf("make %s: %v", m.target, err))
			continue
		}
		err := unix.Mount(m.source, m.target, m.kind, 0, m.options)
		if err != nil && !errors.Is(err, unix.EBUSY) { // devtmpfs may be there already
			warnings = append(warnings, fmt.Sprintf("mount %s: %v", m.target, err))
		}
	}
	return warnings
}

// prepare makes the guest ready for the job.
func prepare(j *job.Job) []string {
	var warnings []string
	note := func(what string, err error) {
		if err != nil {
			warnings = append(warnings, what+": "+err.Error())
		}
	}
	for link, to := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2", "/etc/mtab": "/proc/self/mounts",
	} {
		if err := os.Symlink(to, link); !errors.Is(err, os.ErrExist) {
			note("link "+link, err)
		}
	}
	note("set host name", unix.Sethostname([]byte("weft-vm")))
	note("bring lo up", loopback())
	if time.Now().Year() < 2020 {
		note("set clock", unix.Settimeofday(&unix.Timeval{Sec: j.UnixTime}))
	}
	for _, path := range j.Modules {
		note("load "+path, loadModule(path))
	}
	if j.Usr {
		note("mount /usr", mountUsr())
	}
	// BPF programs and maps are charged to this limit before 5.11.
	note("raise RLIMIT_MEMLOCK", unix.Setrlimit(unix.RLIMIT_MEMLOCK,
		&unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}))
	note("raise RLIMIT_NOFILE", unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 16, Max: 1 << 16}))
	return warnings
}

// mountUsr mounts the userland's disk, which appears when its driver has probed.
func mountUsr() error {
	var err error
	for range 500 {
		err = unix.Mount("/dev/vda", "/usr", "ext4", unix.MS_RDONLY|unix.MS_NOATIME, "")
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENXIO) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
