package probe

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
)

// needRoot skips where BPF cannot be tried, and fails where it must be.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 && !testing.Short() {
		return
	}
	const why = "tries BPF programs: run as root and without -short"
	if os.Getenv("CI") == "true" {
		t.Fatal("CI must run this test; it " + why)
	}
	t.Skip(why)
}

// Every kernel that weft names as supported has these.
func TestEveryKernel(t *testing.T) {
	needRoot(t)
	for name, try := range map[string]func() error{
		"bpf": BPF, "ring buffer": RingBuffer, "sk_msg": SkMsg,
		"uprobe": func() error { _, err := Uprobe(); return err },
		"tp_btf": func() error { return TracepointBTF("sched_process_exec") },
	} {
		for range 2 { // the first has left nothing in the second's way
			if err := try(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// What a hit costs is between what nothing and what a context switch costs, on any
// machine; an emulated one is far from a millisecond.
func TestUprobeCost(t *testing.T) {
	needRoot(t)
	for name, try := range map[string]func() (time.Duration, error){"perf": Uprobe, "multi": UprobeMulti} {
		hit, err := try()
		if name == "multi" && err != nil && features.HaveBPFLinkUprobeMulti() != nil {
			t.Logf("not on this kernel: %v", err)
			continue
		}
		if err != nil || hit <= 0 || hit > time.Millisecond {
			t.Errorf("%s: %v a hit, %v", name, hit, err)
		}
		t.Logf("%s: %v a hit", name, hit)
	}
}

// The probe must be told when a hit on another thread is missed, and when the cookie
// is another: both were kernel versions' faults.
func TestUprobeNoticesFaults(t *testing.T) {
	needRoot(t)
	elsewhere := func(exe *link.Executable, p *ebpf.Program, offset uint64) (link.Link, error) {
		return exe.Uprobe("", p, &link.UprobeOptions{Address: offset, PID: os.Getppid()})
	}
	if _, err := uprobe(ebpf.AttachNone, elsewhere); err == nil || !strings.Contains(err.Error(), "did not run") {
		t.Errorf("attached to another process: %v", err)
	}
	other := func(exe *link.Executable, p *ebpf.Program, offset uint64) (link.Link, error) {
		return exe.UprobeMulti(nil, p, &link.UprobeMultiOptions{Addresses: []uint64{offset}, Cookies: []uint64{1}, PID: uint32(os.Getpid())})
	}
	if features.HaveBPFLinkUprobeMulti() != nil {
		return
	}
	if _, err := uprobe(ebpf.AttachTraceUprobeMulti, other); err == nil || !strings.Contains(err.Error(), "is told cookie 0x1") {
		t.Errorf("another cookie: %v", err)
	}
}

// A probe that cannot fail says nothing.
func TestRefused(t *testing.T) {
	needRoot(t)
	for name, try := range map[string]func() error{
		"tp_btf": func() error { return TracepointBTF("weft_no_such_tracepoint") },
		"fentry": func() error { return Fentry("weft_no_such_function") },
		"kprobe": func() error { return Kprobe("weft_no_such_function") },
		"cgroup": func() error { return SockOps(t.TempDir()) },
	} {
		if err := try(); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want an error of one line", name, err)
		}
	}
}

func TestWriteUser(t *testing.T) {
	needRoot(t)
	refused, err := WriteUser()
	if refused != (err != nil) {
		t.Errorf("refused %t, %v: the probe itself does not load", refused, err)
	}
	if b, rerr := os.ReadFile("/sys/kernel/security/lockdown"); rerr == nil && refused == strings.Contains(string(b), "[none]") {
		t.Errorf("refused %t (%v), and lockdown is %s", refused, err, b)
	}
}

func TestPidfdGetfd(t *testing.T) {
	before, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := PidfdGetfd()
	if err != nil && !foreign {
		t.Error(err) // on this process itself no right is missing
	}
	if after, err := os.ReadDir("/proc/self/fd"); err != nil || len(after) > len(before) {
		t.Errorf("%d descriptors before, %d after, %v", len(before), len(after), err)
	}
}

func TestReason(t *testing.T) {
	log := []string{"0: (85) call bpf_probe_write_user#36", "program of this type cannot use helper", "processed 6 insns", ""}
	if got := reason(log); got != ": program of this type cannot use helper" {
		t.Errorf("%q", got)
	}
	if got := reason(nil); got != "" {
		t.Errorf("%q", got)
	}
}
