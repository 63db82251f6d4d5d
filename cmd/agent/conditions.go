package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"weft/internal/privilege"
)

// oldestTested is the first kernel release that the tests run on.
const oldestMajor, oldestMinor = 5, 10

// initialPIDNamespace is the inode of the host's PID namespace (PROC_PID_INIT_INO).
const initialPIDNamespace = "pid:[4026531836]"

// condition is something about this host or this process that weft suffers from: a
// row of `weft doctor`, a line of the log, or the reason not to start.
type condition struct{ why, effect, mend string }

func (c *condition) Error() string { return c.why + ": " + c.effect + "; " + c.mend }

// requirePrivilege fails early and in plain words where this process may not trace,
// or would trace the wrong processes; what else is missing `weft doctor` says.
func requirePrivilege(command string) error {
	held, err := privilege.Effective()
	if err != nil {
		return err
	}
	err = privilege.Require(held, privilege.UserNamespace())
	if c := pidNamespace(); c != nil {
		// The kernel's process ids would be taken for those of this namespace:
		// programs that nobody selected would be traced.
		err = errors.Join(err, c)
	}
	if err == nil {
		return nil
	}
	var lines []error
	for _, one := range unjoin(err) {
		lines = append(lines, fmt.Errorf("%s: %w", command, one))
	}
	return usage(errors.Join(lines...))
}

func unjoin(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// logConditions says at start what is lost on this host for want of something else
// than a kernel feature.
func logConditions(ctx context.Context, log *slog.Logger, level slog.Level) {
	held, err := privilege.Effective()
	if err != nil {
		log.Warn("own capabilities are not known", "err", err)
		return
	}
	for _, use := range privilege.Lacking(held) {
		log.Log(ctx, level, "a capability is missing", "capability", use.Capability.String(), "so", use.Without,
			"mend", "grant it (docs/security.md), or run as root")
	}
	if mounts, err := procfs.GetMounts(); err == nil && strings.HasSuffix(bpfFileSystem(mounts), readOnly) {
		log.Info("the bpf file system is read-only; weft pins nothing there, so nothing depends on it")
	}
	logKernel(log, kernelRelease())
}

func logKernel(log *slog.Logger, release string) {
	if c := kernelTooOld(release); c != nil {
		log.Warn("this kernel is too old", "why", c.why, "so", c.effect, "mend", c.mend)
	}
}

// logListen says at start who may ask for weft's telemetry, where that is somebody
// else than this host.
func logListen(log *slog.Logger, address string) {
	at, err := netip.ParseAddrPort(address)
	if err == nil && !at.Addr().Unmap().IsLoopback() {
		log.Info("telemetry is served to whoever reaches this address, without a password; set telemetry.listen to a loopback address to keep it on this host",
			"listen", address)
	}
}

// kernelRelease is that of uname(2), "" if there is none to be had.
func kernelRelease() string {
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		return ""
	}
	return unix.ByteSliceToString(uname.Release[:])
}

// notLoaded adds to what the kernel said of weft's programs what it means by it.
func notLoaded(err error) error {
	held, herr := privilege.Effective()
	var limit unix.Rlimit
	if herr = errors.Join(herr, unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit)); herr != nil {
		return errors.Join(err, herr)
	}
	return explained(err, kernelRelease(), held, limit.Cur)
}

// explained is notLoaded for a kernel, for what the process holds, and its
// RLIMIT_MEMLOCK in bytes.
func explained(err error, release string, held privilege.Set, limit uint64) error {
	if !held.Has(privilege.SysResource) && limit != unix.RLIM_INFINITY && before(release, 5, 11) {
		err = fmt.Errorf("%w; Linux %s charges maps to RLIMIT_MEMLOCK: raise it (LimitMEMLOCK=infinity), or grant CAP_SYS_RESOURCE", err, release)
	}
	if c := kernelTooOld(release); c != nil {
		err = fmt.Errorf("%w; %w", err, c)
	}
	return err
}

// kernelTooOld is nil for a release that the tests know, or one that cannot be read.
func kernelTooOld(release string) *condition {
	if !before(release, oldestMajor, oldestMinor) {
		return nil
	}
	c := &condition{fmt.Sprintf("Linux %s is older than %d.%d", release, oldestMajor, oldestMinor),
		"never tested on this kernel", fmt.Sprintf("use Linux %d.%d or later", oldestMajor, oldestMinor)}
	if before(release, 5, 8) {
		c.effect = "it has no ring buffer, without which no event reaches weft"
	}
	return c
}

// pidNamespace is nil where the process ids of this process are those of the kernel.
func pidNamespace() *condition {
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return &condition{"read PID namespace: " + err.Error(), "processes cannot be selected", "mount /proc"}
	}
	if ns != initialPIDNamespace {
		return &condition{"not in the host's PID namespace (" + ns + ")",
			"the kernel and weft disagree on process ids: no process can be selected",
			"run in the host's PID namespace: hostPID: true, docker run --pid=host"}
	}
	self, err := os.Readlink("/proc/self")
	if err == nil && self != fmt.Sprint(os.Getpid()) {
		return &condition{"/proc is of another PID namespace: it calls this process " + self,
			"processes cannot be matched with what the kernel reports", "mount the host's /proc"}
	}
	return nil
}
