package main

import (
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/privilege"
)

// TestEncode compares with what setcap(8) of libcap 2.66 writes for
// cap_bpf,cap_perfmon,cap_net_admin,cap_sys_ptrace,cap_dac_read_search+ep.
func TestEncode(t *testing.T) {
	set := privilege.SetOf(privilege.BPF, privilege.Perfmon, privilege.NetAdmin, privilege.SysPtrace, privilege.DACReadSearch)
	const want = "010000020410080000000000c000000000000000"
	if got := hex.EncodeToString(encode(set)); got != want {
		t.Errorf("encoded %s, setcap writes %s", got, want)
	}
}

// TestReadBack: getcap(8) finds in the file what weft has a use for. Writing it
// needs root.
func TestReadBack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: writing file capabilities takes CAP_SETFCAP")
	}
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, []byte("#!/bin/true\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{file}); err != nil {
		t.Fatal(err)
	}
	getcap, err := exec.LookPath("getcap")
	if err != nil {
		t.Skip("needs getcap: apt-get install libcap2-bin")
	}
	out, err := exec.Command(getcap, file).CombinedOutput()
	if err != nil {
		t.Fatalf("getcap: %v\n%s", err, out)
	}
	said := strings.TrimSpace(strings.TrimPrefix(string(out), file))
	listed, ok := strings.CutSuffix(said, "=ep")
	if !ok {
		t.Fatalf("getcap says %q, want permitted and effective", said)
	}
	got := map[string]bool{}
	for name := range strings.SplitSeq(listed, ",") {
		got[name] = true
	}
	for name := range strings.SplitSeq(privilege.All(), ",") {
		if !got[name] {
			t.Errorf("%s is not in %s", name, said)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("%v are too many in %s", got, said)
	}
}

func TestErrors(t *testing.T) {
	for _, args := range [][]string{nil, {"a", "b"}, {filepath.Join(t.TempDir(), "none")}} {
		err := run(args)
		if err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: want an error of one line, got %v", args, err)
		}
	}
}
