package main

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"weft/loader"
)

// host is the place that one agent takes: a lock (flock(2)) on the root of the
// cgroup v2 tree. That is one inode for the whole host, in whatever mount or PID
// namespace it is looked at (in a cgroup namespace of its own an agent sees only
// what is below, and takes the place there); it needs no file to be written, and
// goes with the process that holds it.
type host struct{ root *os.File }

// openHost does not take the place yet. Its error may be loader.ErrNoCgroup2.
func openHost() (*host, error) {
	mount, err := loader.Cgroup2Mount()
	if err != nil {
		return nil, err
	}
	root, err := os.Open(mount)
	if err != nil {
		return nil, fmt.Errorf("open the root of cgroup v2: %w", err)
	}
	return &host{root}, nil
}

// take takes the place if it is free.
func (h *host) take() (bool, error) {
	err := h.lock(unix.LOCK_EX | unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// await takes the place once it is free. It cannot be interrupted.
func (h *host) await() error { return h.lock(unix.LOCK_EX) }

func (h *host) lock(how int) error {
	for {
		err := unix.Flock(int(h.root.Fd()), how)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("lock the root of cgroup v2: %w", err)
		}
	}
}

// leave lets the next agent take the place. It may be called again.
func (h *host) leave() error {
	if h == nil {
		return nil
	}
	if err := h.root.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("leave the root of cgroup v2: %w", err)
	}
	return nil
}

// occupant is the process that holds the place, 0 where this PID namespace does not
// show it.
func (h *host) occupant() (int, error) {
	info, err := h.root.Stat()
	if err != nil {
		return 0, fmt.Errorf("look at the root of cgroup v2: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, nil
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return 0, fmt.Errorf("read locks: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	// "1: FLOCK  ADVISORY  WRITE 1234 00:26:1 0 EOF"
	where := fmt.Sprintf("%02x:%02x:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev), stat.Ino)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[1] != "FLOCK" || fields[5] != where {
			continue // those that wait have "->" in the second field
		}
		if pid, err := strconv.Atoi(fields[4]); err == nil && pid > 0 {
			return pid, nil
		}
	}
	return 0, lines.Err()
}

// occupantName is how a message calls it.
func occupantName(pid int) string {
	if pid == 0 {
		return "a process that this PID namespace does not show"
	}
	name := "process " + strconv.Itoa(pid)
	if exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe")); err == nil {
		name += " (" + exe + ")"
	}
	return name
}

// mayTrace says whether the process could be an agent: anybody who can open the root
// of cgroup v2 can hold the lock, and must not keep weft from starting.
func mayTrace(pid int) bool {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return true
	}
	status, err := p.NewStatus()
	if err != nil {
		return true
	}
	if status.CapEff&(1<<unix.CAP_SYS_ADMIN|1<<unix.CAP_BPF) == 0 {
		return false
	}
	// Those of another user namespace are worth nothing here.
	theirs, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns/user"))
	mine, merr := os.Readlink("/proc/self/ns/user")
	return err != nil || merr != nil || theirs == mine
}

// claim decides whether this agent may trace now, must wait for its turn, or must
// not start. The host it returns is nil where no cgroup v2 is mounted.
func (r *runCmd) claim(log *slog.Logger) (*host, role, error) {
	h, err := openHost()
	if errors.Is(err, loader.ErrNoCgroup2) {
		return nil, role{}, nil // said where it matters: nothing can be injected
	}
	if err != nil {
		return nil, role{}, err
	}
	free, err := h.take()
	if err != nil {
		return nil, role{}, errors.Join(err, h.leave())
	}
	if free {
		return h, role{alone: true}, nil
	}
	pid, err := h.occupant()
	if err != nil {
		return nil, role{}, errors.Join(err, h.leave())
	}
	who := occupantName(pid)
	switch {
	case r.Standby:
		return h, role{standby: true, alone: true}, nil
	case r.Force:
		log.Warn("another agent traces this host; of programs that both select, one of them writes into a request, and both may export spans of it", "agent", who)
	case pid != 0 && !mayTrace(pid):
		log.Warn("the root of cgroup v2 is locked by a process that cannot be an agent", "by", who)
	default:
		return nil, role{}, errors.Join(usage(fmt.Errorf("run: another agent traces this host: %s; stop it, or give --standby to take over when it ends, or --force to trace beside it", who)), h.leave())
	}
	return nil, role{}, h.leave()
}

// warnOfAgent says that the requests of a command may be traced twice.
func warnOfAgent(log *slog.Logger) {
	h, err := openHost()
	if err != nil {
		return // said where it matters
	}
	defer h.leave() //nolint:errcheck // read only
	if pid, err := h.occupant(); err == nil && pid != 0 && mayTrace(pid) {
		log.Warn("an agent traces this host already; if its targets select this command too, either of both writes into a request, and both may export spans of it",
			"agent", occupantName(pid))
	}
}
