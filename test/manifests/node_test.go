package manifests

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tree stands for the cgroups of a node: a part of this machine's, so that agents
// which run here already have another host, as far as they can tell.
type tree struct {
	dir  string // in cgroup v2
	path string // of dir, from the root of any hierarchy
}

// shop is the cgroup of another pod's container, as the node names it.
const shop = "/pods/shop/container"

func newTree(t *testing.T) tree {
	t.Helper()
	path := fmt.Sprintf("/weft-manifests-%d-%s", os.Getpid(), t.Name())
	host := tree{dir: cgroup2(t) + path, path: path}
	if err := os.MkdirAll(host.dir+shop, 0o755); err != nil {
		t.Skip("needs to make cgroups: ", err)
	}
	t.Cleanup(func() { // runc made some in each hierarchy
		dirs, _ := filepath.Glob("/sys/fs/cgroup" + path)
		more, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
		for _, dir := range append(dirs, more...) {
			for range 100 { // a process that has ended is there for a moment more
				exec.Command("find", dir, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";").Run() //nolint:errcheck // looked at below
				if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s is left over", dir)
			}
		}
	})
	return host
}

// cgroup2 is where the host has cgroup v2.
func cgroup2(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[2] == "cgroup2" {
			return f[1]
		}
	}
	t.Skip("needs cgroup v2")
	return ""
}

// service starts a program that nobody instrumented in a cgroup, and returns its
// address.
func service(t *testing.T, program, dir string, env ...string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.Command(program)
	cmd.Env = append(env, "PORT="+port)
	if dir != "" {
		group, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer group.Close()
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // waited for
		cmd.Wait()         //nolint:errcheck // killed
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if status, _, err := answer(http.DefaultClient, "http://"+address+"/ready"); err == nil && status == http.StatusOK {
			return address
		} else if time.Now().After(deadline) {
			t.Fatalf("%s does not answer: %d, %v", program, status, err)
		}
	}
}

// callerOf starts two programs that nobody instrumented, and returns the address of
// the first, which is in the other pod and asks the second.
func callerOf(t *testing.T, host tree) string {
	t.Helper()
	gosvc := program(t, "./test/apps/gosvc")
	leaf := service(t, gosvc, "")
	return service(t, gosvc, host.dir+shop, "DOWNSTREAM=http://"+leaf+"/leaf")
}

// carries says whether a request of the caller reaches the other with context.
func carries(caller string) (bool, string) {
	status, body, err := answer(http.DefaultClient, "http://"+caller+"/call?id=1")
	return status == http.StatusOK && strings.Contains(strings.ToLower(body), `"traceparent"`), fmt.Sprint(status, " ", body, err)
}

// selected has weft trace the other pod: there is no API server to ask for labels.
const selected = "WEFT_TARGETS=[{cgroup: " + shop + "}]"
