package loader

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/procfs"
)

// Cgroups as two containers have them.
const (
	nsOwn   = "pods/weft/container" // where the namespace begins
	nsOther = "pods/shop/container"
)

// TestHostCgroup: from a cgroup namespace of its own, as a container has, weft
// names cgroups as the host does.
func TestHostCgroup(t *testing.T) {
	if pid := os.Getenv("WEFT_TEST_CGROUP_OF"); pid != "" {
		tellCgroup(t, pid)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes cgroups and a cgroup namespace")
	}
	mount, err := Cgroup2Mount()
	if err != nil {
		t.Skip("needs cgroup v2: ", err)
	}
	top := fmt.Sprintf("weft-ns-%d", os.Getpid())
	for _, name := range []string{nsOwn, nsOther} {
		dir := filepath.Join(mount, top, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Skip("needs to make cgroups: ", err)
		}
		t.Cleanup(func() {
			for dir != mount {
				os.Remove(dir) // the first of two leaves what the second still holds
				dir = filepath.Dir(dir)
			}
		})
	}
	other := inCgroup(t, filepath.Join(mount, top, nsOther), "sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		other.Process.Kill() //nolint:errcheck // ends it at the latest
		other.Wait()         //nolint:errcheck // killed
	})
	ask := func(command ...string) (string, string) {
		t.Helper()
		self := append(command, os.Args[0], "-test.run=^TestHostCgroup$", "-test.v")
		cmd := inCgroup(t, filepath.Join(mount, top, nsOwn), self[0], self[1:]...)
		cmd.Env = append(os.Environ(), fmt.Sprintf("WEFT_TEST_CGROUP_OF=%d", other.Process.Pid))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", self, err, out)
		}
		_, rest, _ := strings.Cut(string(out), "raw=")
		raw, rest, _ := strings.Cut(rest, " host=")
		host, _, _ := strings.Cut(rest, "\n")
		return raw, host
	}
	want := "/" + filepath.Join(top, nsOther)
	if raw, host := ask("env"); raw != want || host != want {
		t.Errorf("in the host's namespace: %s is %s, want %s for both", raw, host, want)
	}
	raw, host := ask("unshare", "--cgroup")
	if !strings.HasPrefix(raw, "/..") {
		t.Fatalf("the namespace shows %s: it is not one", raw)
	}
	if host != want {
		t.Errorf("in a namespace: %s is %s, want %s", raw, host, want)
	}
}

// inCgroup is a command that starts in a cgroup.
func inCgroup(t *testing.T, dir, name string, args ...string) *exec.Cmd {
	t.Helper()
	fd, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fd.Close() })
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(fd.Fd())}
	return cmd
}

// tellCgroup is the same test within: what /proc says, and what weft makes of it.
func tellCgroup(t *testing.T, pid string) {
	var n int
	if _, err := fmt.Sscan(pid, &n); err != nil {
		t.Fatal(err)
	}
	proc, err := procfs.NewProc(n)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := proc.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		if g.HierarchyID == 0 {
			fmt.Printf("raw=%s host=%s\n", g.Path, hostCgroup(g.Path))
		}
	}
}
