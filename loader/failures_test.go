package loader

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// counted are the failures that are not zero.
func counted(f *attachFailures) []Failure {
	return slices.DeleteFunc(f.all(), func(c Failure) bool { return c.Value == 0 })
}

func TestAttachFailureCauses(t *testing.T) {
	_, missing := os.ReadDir("/nonexistent")
	for _, c := range []struct {
		attach string
		err    error
		want   string
	}{
		{"fentry", fmt.Errorf("load program: %w", unix.EPERM), "permission"},
		{"kprobe", fmt.Errorf("attach: %w", missing), "unsupported"}, // no kprobe_events
		{"tracepoint", fmt.Errorf("attach: %w", ebpf.ErrNotSupported), "unsupported"},
		{"fentry", fmt.Errorf("load BPF programs: %w", shortVerifierError(&ebpf.VerifierError{Cause: unix.EACCES, Log: []string{"R1 invalid mem access"}})), "verifier"},
		{"fentry", fmt.Errorf("load BPF programs: %w", shortVerifierError(&ebpf.VerifierError{Cause: unix.EPERM})), "permission"},
		{"sk_msg", errors.Join(fmt.Errorf("%w: %w", errSelfTest, unix.EPERM), nil), "self_test"},
		{"sk_msg", ErrNoCgroup2, "unsupported"},
		{"cgroup", fmt.Errorf("attach to cgroup /a: %w", missing), "gone"},
		{"cgroup", unix.E2BIG, "limit"}, // 64 programs on one cgroup
		{"connection", unix.ESRCH, "gone"},
		{"connection", fmt.Errorf("adopt: %w", errBlocking), "blocking"},
		{"connection", fmt.Errorf("add socket to sockhash: %w", unix.E2BIG), "limit"},
		{"process", unix.E2BIG, "limit"},
		{"process", missing, "other"}, // not one of its causes
		{"run_time", unix.EPERM, "permission"},
		{"run_time", errors.New("?"), "other"},
	} {
		var f attachFailures
		f.add(c.attach, c.err)
		if got, want := counted(&f), (Failure{c.attach, c.want, 1}); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v: %v, want %v", c.attach, c.err, got, want)
		}
	}
}

func TestAttachFailuresAdd(t *testing.T) {
	var none *attachFailures
	none.add("cgroup", unix.EPERM) // of TryCapture, which counts nothing
	var f attachFailures
	f.add("cgroup", nil)
	f.addJoined("connection", nil)
	if got := counted(&f); len(got) != 0 {
		t.Errorf("nothing failed: %v", got)
	}
	f.addJoined("connection", errors.Join(errBlocking, errBlocking))
	f.addJoined("connection", fmt.Errorf("list: %w", errBlocking))
	if got := counted(&f); len(got) != 1 || got[0] != (Failure{"connection", "blocking", 3}) {
		t.Errorf("two joined and one: %v", got)
	}
	f.forget()
	if got := counted(&f); len(got) != 0 {
		t.Errorf("forgotten: %v", got)
	}
}
