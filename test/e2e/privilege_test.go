package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/privilege"
)

// granted is what docs/security.md tells to grant, for kernels that charge maps to
// RLIMIT_MEMLOCK too. A host may itself have less, as a container does.
var granted = []privilege.Capability{privilege.BPF, privilege.Perfmon, privilege.NetAdmin, privilege.SysPtrace,
	privilege.DACReadSearch, privilege.SysResource}

// whole are the effects where nothing is missing.
var whole = effects{oldWire: true, newWire: true, client: "told", server: "by-port"}

// TestPrivilege takes one capability at a time from weft, and holds what doctor and
// the log say is lost against what a program of another user gets.
func TestPrivilege(t *testing.T) {
	s := newStrangers(t)
	for _, tt := range []struct {
		lost  privilege.Capability
		want  effects
		state string // of the capability's row
		exit  int    // exit status of doctor
	}{
		{privilege.BPF, effects{}, "missing", 2},
		{privilege.Perfmon, effects{}, "missing", 2},
		{privilege.NetAdmin, effects{client: "told", server: "by-port"}, "degraded", 1},
		{privilege.SysPtrace, effects{ready: "CAP_SYS_PTRACE"}, "degraded", 0},
		{privilege.DACReadSearch, effects{ready: "CAP_DAC_READ_SEARCH", newWire: true, client: "rawhttp", server: "rawhttp"}, "degraded", 0},
	} {
		t.Run(tt.lost.String(), func(t *testing.T) {
			a := s.agentFor(t)
			confine(t, without(granted, tt.lost)...)
			exit, rows := askDoctor(t)
			if exit != tt.exit {
				t.Errorf("doctor exits with %d, want %d", exit, tt.exit)
			}
			var use privilege.Use
			for _, u := range privilege.Uses() {
				row := rows[strings.ToLower(u.Capability.String())]
				switch want := tt.state; {
				case u.Capability == tt.lost:
					use = u
					if row.State != want || row.Effect != u.Without || !strings.Contains(row.Mend, tt.lost.String()) {
						t.Errorf("doctor says %+v", row)
					}
				case row.State != "ok":
					t.Errorf("doctor misses what is held: %+v", row)
				}
			}
			if use.Required {
				complain(t, a.program, "weft: run: "+tt.lost.String()+" missing", "sudo", "setcap", "securityContext")
				if text := a.out.String(); strings.Count(text, "\n") != 1 {
					t.Errorf("want one line:\n%s", text)
				}
				x := weft(t, "exec", "--", "true")
				complain(t, x, "weft: exec: "+tt.lost.String()+" missing")
				return
			}
			got := s.observe(t, a)
			if !strings.Contains(got.messages, tt.lost.String()) || !strings.Contains(got.messages, use.Without) {
				t.Errorf("the log does not say %s: %s\n%s", tt.lost, use.Without, got.messages)
			}
			same(t, got, tt.want)
		})
	}
	t.Run("all of them", func(t *testing.T) {
		a := s.agentFor(t)
		confine(t, granted...)
		if exit, rows := askDoctor(t); exit != 0 {
			t.Errorf("doctor exits with %d: %+v", exit, rows)
		}
		same(t, s.observe(t, a), whole)
	})
	t.Run("CAP_SYS_ADMIN and CAP_DAC_OVERRIDE instead", func(t *testing.T) {
		a := s.agentFor(t)
		confine(t, privilege.SysAdmin, privilege.SysPtrace, privilege.DACOverride, privilege.SysResource)
		same(t, s.observe(t, a), whole)
	})
	t.Run("CAP_SYS_RESOURCE", func(t *testing.T) {
		a := s.agentFor(t)
		confine(t, without(granted, privilege.SysResource)...)
		_, rows := askDoctor(t)
		if row := rows["memlock"]; row.State == "degraded" {
			complain(t, a.program, "CAP_SYS_RESOURCE", "RLIMIT_MEMLOCK")
			if !strings.Contains(row.Mend, "CAP_SYS_RESOURCE") {
				t.Errorf("doctor says %+v", row)
			}
			return
		}
		same(t, s.observe(t, a), whole)
	})
	t.Run("not root", func(t *testing.T) {
		public(t)
		a := s.agentFor(t)
		bin := filepath.Join(t.TempDir(), "weft")
		raw, err := os.ReadFile(a.cmd.Path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(bin, raw, 0o755); err != nil {
			t.Fatal(err)
		}
		held, err := privilege.Effective()
		if err != nil {
			t.Fatal(err)
		}
		give := granted
		if !held.Has(privilege.SysResource) { // nobody can pass on what he has not
			give = without(give, privilege.SysResource)
		}
		a.cmd.Path = bin
		asNobody(a.cmd, give)
		same(t, s.observe(t, a), whole)
	})
}

// same judges effects; ready is compared by the word that must be in it.
func same(t *testing.T, got, want effects) {
	t.Helper()
	if (got.ready == "") != (want.ready == "") || !strings.Contains(got.ready, want.ready) {
		t.Errorf("/readyz says %q, want %q", got.ready, want.ready)
	}
	log := got.messages
	got.messages, got.ready, want.ready = "", "", ""
	if got != want {
		t.Errorf("got %+v, want %+v\n%s", got, want, log)
	}
}

// TestPrivilegeExec: what `weft exec` starts it sees without CAP_SYS_PTRACE, and
// where it can make no cgroup the hooks are put on its own, as doctor says.
func TestPrivilegeExec(t *testing.T) {
	demo := goProgram(t, "./demo")
	mount, err := cgroupMount()
	need(t, "cgroup2", err)
	var info unix.Stat_t
	if err := unix.Stat(mount, &info); err != nil {
		t.Fatal(err)
	}
	t.Run("least", func(t *testing.T) {
		confine(t, privilege.BPF, privilege.Perfmon, privilege.NetAdmin, privilege.SysResource)
		_, rows := askDoctor(t)
		t.Setenv("DEMO_PAUSE", "4s")
		run := weftExec(t, nil, demo)
		if run.status != 0 || len(run.spans) != 16 {
			t.Fatalf("status %d, %d spans\n%s", run.status, len(run.spans), run.stderr)
		}
		roots := 0
		for _, span := range run.spans {
			if span.ParentID == "" {
				roots++
			}
		}
		if roots != 3 {
			t.Errorf("%d roots of 3", roots)
		}
		none := strings.Contains(run.stderr, "the command gets no cgroup of its own")
		if row := rows["sockops"]; none != (row.State == "degraded") || none != strings.Contains(row.Effect, "weft exec") {
			t.Errorf("doctor says %+v, and exec: %s", row, run.stderr)
		}
		if writable := info.Mode&0o200 != 0; none == writable {
			t.Errorf("%s has mode %o, and exec: %s", mount, info.Mode, run.stderr)
		}
	})
}

// TestPrivilegeBeforeAnythingElse: weft refuses within moments, before it loads
// anything.
func TestPrivilegeBeforeAnythingElse(t *testing.T) {
	config := writeConfig(t, oneTarget)
	p := weft(t, "run", "--force", "--config", config)
	confine(t)
	began := time.Now()
	complain(t, p, "CAP_BPF and CAP_PERFMON missing")
	if took := time.Since(began); took > patience(t, 5*time.Second) {
		t.Errorf("it took %v", took)
	}
}
