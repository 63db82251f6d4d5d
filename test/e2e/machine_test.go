package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// need ends the test where the machine lacks something. That is a skip, which
// says what to install; where CI=true it is a failure, unless
// WEFT_E2E_WITHOUT names it as known to be missing.
func need(t *testing.T, name string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	expected := slices.Contains(strings.Split(os.Getenv("WEFT_E2E_WITHOUT"), ","), name)
	if os.Getenv("CI") == "true" && !expected {
		t.Fatalf("this machine lacks %s: %v (WEFT_E2E_WITHOUT=%s accepts that)", name, err, name)
	}
	t.Skipf("this machine lacks %s: %v", name, err)
}

func rootUser() error {
	if os.Geteuid() != 0 {
		return errors.New("run the end-to-end tests as root, on a kernel ≥ 5.10 with cgroup v2 mounted")
	}
	return nil
}

// scaled lowers a number of requests by WEFT_E2E_SCALE (0.05 for an emulated
// machine), to 40 at the least.
func scaled(t *testing.T, n int) int {
	t.Helper()
	return max(int(math.Round(float64(n)*scale(t))), min(n, 40))
}

func scale(t *testing.T) float64 {
	t.Helper()
	v := os.Getenv("WEFT_E2E_SCALE")
	if v == "" {
		return 1
	}
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || f <= 0 || f > 1 {
		t.Fatalf("WEFT_E2E_SCALE=%s: give a number above 0 and up to 1", v)
	}
	return f
}

// patience stretches waiting where the machine is emulated.
func patience(t *testing.T, d time.Duration) time.Duration {
	t.Helper()
	if scale(t) < 0.5 {
		return 6 * d
	}
	return d
}

// appsDir is test/apps.
func appsDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("WEFT_E2E_APPS")
	if dir == "" {
		dir = "../apps" // tests run in their package's folder
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(abs, "flask", "app.py")); err != nil {
		t.Fatalf("no programs to test in %s: set WEFT_E2E_APPS to the folder test/apps", abs)
	}
	return abs
}

// depsDir is where deps.sh installed.
func depsDir() string {
	if dir := os.Getenv("WEFT_E2E_DEPS"); dir != "" {
		return dir
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "/root/.cache/weft-e2e"
	}
	return filepath.Join(cache, "weft-e2e")
}

// installed returns a path under depsDir.
func installed(parts ...string) (string, error) {
	p := filepath.Join(append([]string{depsDir()}, parts...)...)
	if _, err := os.Stat(p); err != nil {
		return "", fmt.Errorf("no %s: run test/e2e/deps.sh, or set WEFT_E2E_DEPS", p)
	}
	return p, nil
}

// tool finds a program that a Debian package brings.
func tool(name, pkg string) (string, error) {
	for _, dir := range []string{"/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"} {
		p := filepath.Join(dir, name)
		if unix.Access(p, unix.X_OK) == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("no program %s: apt-get install %s, or run test/e2e/deps.sh", name, pkg)
}

// goProgram builds a program of this repository, or takes the one that
// deps.sh built where there is no Go.
func goProgram(t *testing.T, pkg string) string {
	t.Helper()
	name := filepath.Base(pkg)
	goTool, err := exec.LookPath("go")
	if err != nil {
		p, err := installed("bin", name)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	out := filepath.Join(t.TempDir(), name)
	cmd := exec.Command(goTool, "build", "-o", out, pkg)
	cmd.Dir = filepath.Join(appsDir(t), "..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, text)
	}
	return out
}

// weftBin is the program under test.
func weftBin(t *testing.T) string {
	t.Helper()
	if p := os.Getenv("WEFT_BIN"); p != "" {
		abs, err := filepath.Abs(p)
		if err == nil {
			err = unix.Access(abs, unix.X_OK)
		}
		if err != nil {
			t.Fatalf("WEFT_BIN=%s: %v", p, err)
		}
		return abs
	}
	return goProgram(t, "./cmd/agent")
}

// cgroupMount finds the cgroup v2 tree.
func cgroupMount() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		before, after, found := strings.Cut(sc.Text(), " - ")
		if fields := strings.Fields(before); found && len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			return fields[4], nil
		}
	}
	return "", errors.New("no cgroup v2 is mounted: mount -t cgroup2 none /sys/fs/cgroup")
}

func ipv6Loopback() error {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return fmt.Errorf("no IPv6 on loopback: %w", err)
	}
	return l.Close()
}

// freePort is a TCP port nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
