package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"weft/internal/privilege"
	"weft/loader"
	"weft/loader/probe"
)

// captureWays are the ways of capture in the order in which tracing tries them.
var captureWays = []loader.Capture{loader.CaptureFentry, loader.CaptureKprobe, loader.CaptureTracepoint}

// row is ok for a nil error and missing otherwise.
func row(name, works string, err error, effect, mend string) capability {
	if err == nil {
		return capability{Name: name, State: stateOK, Why: works}
	}
	return capability{Name: name, State: stateMissing, Why: oneLine(err), Effect: effect, Mend: mend}
}

// oneLine puts joined errors on one line, without the hint that cilium/ebpf adds
// to every EPERM: where it applies, the memlock row says so.
func oneLine(err error) string {
	s := strings.ReplaceAll(err.Error(), "\n", "; ")
	return strings.ReplaceAll(s, " (MEMLOCK may be too low, consider rlimit.RemoveMemlock)", "")
}

// blocked is the unknown row of a capability that cannot be tried, if so.
func (e *examination) blocked(name string, needs ...string) (capability, bool) {
	if e.refused != "" {
		return capability{Name: name, State: stateUnknown, Why: "not tried without " + e.refused, Mend: runAsRoot}, true
	}
	for _, need := range append([]string{capBPF}, needs...) {
		if c := e.found(need); c.State == stateMissing || c.State == stateUnknown {
			return capability{Name: name, State: stateUnknown, Why: "not tried without " + need}, true
		}
	}
	return capability{}, false
}

// mend is how to mend the row of an attempt for which a capability is needed.
func (e *examination) mend(needed privilege.Capability, otherwise string) string {
	for _, use := range privilege.Lacking(e.held) {
		if use.Capability == needed {
			return "grant " + needed.String()
		}
	}
	return otherwise
}

// found is the row of that name; one not tried yet has no state.
func (e *examination) found(name string) capability {
	for _, c := range e.rows {
		if c.Name == name {
			return c
		}
	}
	return capability{}
}

// kernelRow only informs: what works is found by trying.
func kernelRow(release, machine string) capability {
	c := capability{Name: "kernel", State: stateOK, Why: release + " " + machine}
	if old := kernelTooOld(release); old != nil {
		c.State, c.Why, c.Effect, c.Mend = stateDegraded, old.why, old.effect, old.mend
	}
	return c
}

// before says whether a release such as "6.1.0-56-amd64" is older than
// major.minor; one that cannot be read is not.
func before(release string, major, minor int) bool {
	var a, b int
	if _, err := fmt.Sscanf(release, "%d.%d", &a, &b); err != nil {
		return false
	}
	return a < major || a == major && b < minor
}

func pidNamespaceRow() capability {
	if c := pidNamespace(); c != nil {
		return capability{Name: capPIDs, State: stateMissing, Why: c.why, Effect: c.effect, Mend: c.mend}
	}
	return capability{Name: capPIDs, State: stateOK, Why: "the host's"}
}

func btfRow() capability {
	const file = "/sys/kernel/btf/vmlinux"
	f, err := os.Open(file)
	if err == nil {
		head := make([]byte, 2)
		_, err = f.Read(head)
		if err == nil && string(head) != "\x9f\xeb" {
			err = fmt.Errorf("%s is not BTF", file)
		}
		err = errors.Join(err, f.Close())
	}
	return row(capBTF, file, err, "programs cannot be fitted to this kernel's structures",
		"use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as all large distributions' are; mount /sys")
}

// memlockRow looks at the limit after the programs were loaded, which may have
// raised it.
func (e *examination) memlockRow() capability {
	const name = "memlock"
	limit, charged, err := e.memlock()
	switch {
	case err != nil:
		return row(name, "", err, "", "")
	case !charged:
		return capability{Name: name, State: stateOK, Why: "BPF memory is charged to the memory cgroup"}
	case limit == unix.RLIM_INFINITY:
		return capability{Name: name, State: stateOK, Why: "RLIMIT_MEMLOCK, to which this kernel charges BPF maps, is unlimited"}
	}
	return capability{Name: name, State: stateDegraded,
		Why:    fmt.Sprintf("RLIMIT_MEMLOCK is %d KiB, and this kernel charges BPF maps to it", limit>>10),
		Effect: "maps may not fit: \"operation not permitted\" in the rows above", Mend: "ulimit -l unlimited; systemd: LimitMEMLOCK=infinity; or grant CAP_SYS_RESOURCE"}
}

// memlock is RLIMIT_MEMLOCK in bytes, and whether BPF maps are charged to it, as
// they were before 5.11.
func (e *examination) memlock() (limit uint64, charged bool, err error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return 0, false, fmt.Errorf("read RLIMIT_MEMLOCK: %w", err)
	}
	return l.Cur, before(e.release, 5, 11), nil
}

func (e *examination) bpfRow() capability {
	if c, ok := e.blocked(capBPF); ok {
		return c
	}
	return row(capBPF, "programs load", probe.BPF(), "no program can be loaded",
		"in a container: a seccomp profile that allows bpf(2) and perf_event_open(2); lockdown=confidentiality forbids it everywhere")
}

func (e *examination) ringRow() capability {
	if c, ok := e.blocked(capRing); ok {
		return c
	}
	return row(capRing, "can be created", probe.RingBuffer(), "no event reaches weft", "use Linux 5.8 or later")
}

func (e *examination) tracepointBTFRow() capability {
	if c, ok := e.blocked(capTPBTF, capBTF); ok {
		return c
	}
	return row(capTPBTF, "inet_sock_set_state and sched_process_exec attach",
		errors.Join(probe.TracepointBTF("inet_sock_set_state"), probe.TracepointBTF("sched_process_exec")),
		"connections and processes are not seen", "use a kernel with CONFIG_BPF_EVENTS=y and CONFIG_DEBUG_INFO_BTF=y")
}

// wayRow tries a program that does nothing first: its failure is the kernel's,
// a later one of the real programs is weft's own.
func (e *examination) wayRow(way loader.Capture) capability {
	name := "capture." + string(way)
	if c, ok := e.blocked(name, capRing, capTPBTF); ok {
		return c
	}
	var refused error
	mend := ""
	switch way {
	case loader.CaptureFentry:
		refused = probe.Fentry("tcp_sendmsg")
		mend = "use a kernel with BPF trampolines: CONFIG_FUNCTION_TRACER=y, CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y"
	case loader.CaptureKprobe:
		refused = probe.Kprobe("tcp_sendmsg")
		mend = "use a kernel with CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y; mount tracefs"
	case loader.CaptureTracepoint:
		refused = errors.Join(probe.TracepointBTF("sock_send_length"), probe.TracepointBTF("sock_recv_length"))
		mend = "use Linux 6.3 or later"
	}
	if refused != nil {
		return capability{Name: name, State: stateMissing, Why: "the kernel refuses it: " + oneLine(refused), Mend: mend}
	}
	err := loader.TryCapture(way)
	mend = "report this line as a defect: the kernel allows this way, and weft's programs do not pass"
	if limit, charged, lerr := e.memlock(); lerr == nil && charged && limit != unix.RLIM_INFINITY && errors.Is(err, unix.EPERM) {
		mend = "see memlock"
	}
	return row(name, "weft's programs load and attach", err, "", mend)
}

// captureRow is the choice that tracing would make. It completes the rows of the
// ways that do not work: what their loss means depends on the others.
func (e *examination) captureRow() capability {
	if c, ok := e.blocked(capCapture, capRing, capTPBTF); ok {
		return c
	}
	forced := ""
	ways := captureWays
	if e.forced != loader.CaptureAny {
		forced = ", as WEFT_CAPTURE says"
		ways = []loader.Capture{e.forced}
	}
	for _, way := range ways {
		if e.found("capture."+string(way)).State == stateOK {
			e.chosen = way
			break
		}
	}
	for i := range e.rows {
		if c := &e.rows[i]; strings.HasPrefix(c.Name, "capture.") && c.State == stateMissing {
			c.Effect = "no request is seen this way"
			if e.chosen != loader.CaptureAny {
				c.Effect = string(e.chosen) + " is used instead"
			}
		}
	}
	switch {
	case e.chosen == loader.CaptureTracepoint:
		return capability{Name: capCapture, State: stateDegraded, Why: "tracepoint would be used" + forced,
			Effect: "what programs send or receive by io_uring is counted, not read",
			Mend:   "none needed without io_uring; else make fentry or kprobe work"}
	case e.chosen != loader.CaptureAny:
		return capability{Name: capCapture, State: stateOK, Why: string(e.chosen) + " would be used" + forced}
	case forced != "":
		return capability{Name: capCapture, State: stateMissing, Why: string(e.forced) + " does not work, and WEFT_CAPTURE allows no other",
			Effect: "no request is seen", Mend: "unset WEFT_CAPTURE"}
	}
	return capability{Name: capCapture, State: stateMissing, Why: "none of fentry, kprobe and tracepoint works",
		Effect: "no request is seen", Mend: "any one is enough: see their rows"}
}

func (e *examination) cgroupRow() capability {
	mount, err := loader.Cgroup2Mount()
	if errors.Is(err, loader.ErrNoCgroup2) {
		return capability{Name: capCgroup, State: stateMissing, Why: "no cgroup v2 hierarchy is mounted",
			Effect: "new connections are not found: requests carry no context",
			Mend:   "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"}
	}
	return row(capCgroup, "mounted at "+mount, err, "new connections are not found: requests carry no context", "mount /proc")
}

// sockOpsRow attaches in a cgroup made for this alone, which holds no process. Where
// none can be made it takes weft's own, for a moment and a program that does nothing.
func (e *examination) sockOpsRow() capability {
	if c, ok := e.blocked(capSockOps, capCgroup); ok {
		return c
	}
	g, err := newGroup(slog.New(slog.DiscardHandler))
	if err == nil {
		defer g.remove()
		err = probe.SockOps(g.full)
	}
	c := row(capSockOps, "attaches to a cgroup", err, "new connections are not found: requests carry no context",
		e.mend(privilege.NetAdmin, "mount cgroup v2; use a kernel with CONFIG_CGROUP_BPF=y"))
	if err == nil && g.dir == nil {
		c.State, c.Why = stateDegraded, "attaches to a cgroup; none can be made below weft's own"
		c.Effect = "`weft exec` puts its hooks on weft's own cgroup, where programs that are not traced pay for a hook that returns at once; `weft run` loses nothing"
		c.Mend = "mount cgroup v2 writable, and run as its owner or grant CAP_DAC_OVERRIDE"
	}
	return c
}

func (e *examination) skMsgRow() capability {
	if c, ok := e.blocked(capSkMsg); ok {
		return c
	}
	return row(capSkMsg, "attaches to a sockhash", probe.SkMsg(), "requests are observed but not edited",
		e.mend(privilege.NetAdmin, "use a kernel with CONFIG_BPF_STREAM_PARSER=y and CONFIG_NET_SOCK_MSG=y"))
}

// injectionRow puts a loopback pair through the very path that edits requests.
func (e *examination) injectionRow() capability {
	if c, ok := e.blocked(capInjection, capPIDs, capCapture, capCgroup, capSkMsg); ok {
		return c
	}
	got, err := loader.TryInject(e.chosen)
	if err != nil {
		return row(capInjection, "", err, "requests are observed but not edited", "use another kernel release; report this line if yours is a current one")
	}
	e.injection = &got
	if got.Receiving {
		return capability{Name: capInjection, State: stateDegraded,
			Why:    "self-test passed, with the receive program: FIONREAD is wrong in a sockmap on this kernel",
			Effect: "replies on edited connections wait in a queue of the sockmap, which costs each receive a little", Mend: "use a kernel without the sockmap FIONREAD regression"}
	}
	return capability{Name: capInjection, State: stateOK, Why: "self-test passed: a loopback connection carried traceparent, byte for byte"}
}

// livenessRow is what keeps a killed agent from leaving injection behind.
func (e *examination) livenessRow() capability {
	const name = "liveness"
	if c, ok := e.blocked(name, capInjection); ok {
		return c
	}
	return row(name, "a request sent after the deadline went out unedited: injection ends within a second of the agent", e.injection.Liveness,
		"injection may outlive a killed agent", "set WEFT_PROPAGATION_INJECT= to observe only, and report this line")
}

// pidfdRow is about connections that were open before weft came.
func (e *examination) pidfdRow() capability {
	const name = "pidfd_getfd"
	foreign, err := probe.PidfdGetfd()
	c := row(name, "descriptors of other processes can be duplicated", err,
		"connections older than weft carry no context; new ones do",
		e.mend(privilege.SysPtrace, "use Linux 5.6 or later; kernel.yama.ptrace_scope below 3"))
	if err == nil && !foreign {
		c.Why = "works on this process; no other is visible to try"
	}
	return c
}
