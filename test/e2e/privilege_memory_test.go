package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"weft/internal/privilege"
	"weft/test/e2e/truth"
)

// TestPrivilegeMemory holds what doctor and a running agent say about writing into the
// memory of Go programs against what arrives, with CAP_SYS_ADMIN and without: inside TLS
// only that carries context, in the clear the socket tier does without it.
func TestPrivilegeMemory(t *testing.T) {
	bin := buildGo(t, goLocal)
	for _, tt := range []struct {
		name  string
		held  []privilege.Capability
		admin bool
	}{
		{"without CAP_SYS_ADMIN", granted, false},
		{"with CAP_SYS_ADMIN", append([]privilege.Capability{privilege.SysAdmin}, granted...), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			confine(t, tt.held...)
			_, rows := askDoctor(t)
			row, probes := rows["go.writes"], rows["go.uprobes"]
			t.Logf("go.uprobes: %s: %s", probes.State, probes.Why)
			t.Logf("go.writes: %s: %s", row.State, row.Why)
			if tt.admin == strings.Contains(row.Why, "CAP_SYS_ADMIN") {
				t.Errorf("doctor says %+v", row)
			}
			writes := row.State == "ok"
			if writes && !tt.admin {
				t.Error("doctor says that memory is written without CAP_SYS_ADMIN")
			}
			h := newGoHost(t)
			// The rig takes doctor's word for what can be written.
			var rigs []*goRig
			for _, protocol := range []string{"http1", "https", "h2"} {
				rigs = append(rigs, startGoRig(t, h, bin, protocol, parseGo(t, "")))
			}
			h.trace(t)
			if said := fmt.Sprintf("go_memory=%v", writes); !strings.Contains(h.agent.out.String(), said) {
				t.Errorf("doctor says %q, and the agent not %s\n%s", row.State, said, h.agent.out.tail())
			}
			if probes.State == "missing" {
				// Some kernels want CAP_SYS_ADMIN for the probes, too.
				if tt.admin {
					t.Skipf("no probes in Go programs on this kernel: %s", probes.Why)
				}
				h.agent.until(func() error {
					if !strings.Contains(h.agent.out.String(), "a Go program is traced by its sockets alone") {
						return errors.New("the agent does not say so")
					}
					return nil
				})
				return
			}
			for i, r := range rigs {
				r.attached(t)
				tally := r.measure(fmt.Sprintf("memory%d", i), scaled(t, 400), truth.Calls{}, somePatterns("same", "go", "errgroup")...)
				t.Logf("%-5s written: %-5v %v", r.protocol, !r.still, tally)
				if err := tally.Err(); err != nil {
					t.Errorf("%s: %v", r.protocol, err)
				}
				if r.still != (!writes && r.protocol != "http1") {
					t.Errorf("%s: requests stay as they are: %v", r.protocol, r.still)
				}
			}
			counts := h.agent.kernelCounts()
			memory, socket := counts["injected/memory"], counts["injected/socket"]
			t.Logf("%v heads written in memory, %v by the socket tier", memory, socket)
			if (memory > 0) != writes || !writes && socket == 0 {
				t.Errorf("doctor says %q: %v heads were written in memory, %v by the socket tier", row.State, memory, socket)
			}
			h.end(t)
		})
	}
}
