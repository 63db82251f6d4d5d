package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/internal/config"
	"weft/kube"
	"weft/kube/kubetest"
	"weft/loader"
)

// container is a cgroup as containerd makes it for a container of a pod.
func container(t *testing.T, uid, id string) string {
	t.Helper()
	mount, err := loader.Cgroup2Mount()
	if err != nil {
		t.Skip("needs cgroup v2: ", err)
	}
	root := filepath.Join(mount, "weft-test-"+strconv.Itoa(os.Getpid()))
	dir := filepath.Join(root, "kubepods.slice", "kubepods-pod"+strings.ReplaceAll(uid, "-", "_")+".slice", "cri-containerd-"+id+".scope")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Skip("cannot make cgroups: ", err)
	}
	t.Cleanup(func() {
		for d := dir; len(d) >= len(root); d = filepath.Dir(d) {
			for range 50 { // until the last process has left
				if os.Remove(d) == nil {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	})
	return dir
}

// within starts a program in a cgroup.
func within(t *testing.T, dir string, env ...string) *exec.Cmd {
	t.Helper()
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	cmd := exec.Command("sleep", "600")
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // it was killed
	})
	return cmd
}

// agentChild is `weft run` in a child, and what it says.
type agentChild struct {
	t     *testing.T
	cmd   *exec.Cmd
	ended chan struct{}

	mu    sync.Mutex
	lines []string
}

// runChild starts it with the configuration text, by way of wrapper if there is one.
func runChild(t *testing.T, text string, wrapper ...string) *agentChild {
	t.Helper()
	file := filepath.Join(t.TempDir(), "weft.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := append(slices.Clone(wrapper), self, "-test.run=^TestChild$")
	a := &agentChild{t: t, cmd: exec.Command(argv[0], argv[1:]...), ended: make(chan struct{})}
	a.cmd.Env = append(os.Environ(), childArgs+"=run\x1f--force\x1f--config\x1f"+file, "KUBERNETES_SERVICE_HOST=")
	stderr, err := a.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(a.ended)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			a.mu.Lock()
			a.lines = append(a.lines, lines.Text())
			a.mu.Unlock()
		}
		io.Copy(io.Discard, stderr) //nolint:errcheck // a line too long to scan
	}()
	t.Cleanup(func() {
		a.stop()
		if t.Failed() {
			t.Logf("weft said:\n%s", strings.Join(a.lines, "\n"))
		}
	})
	return a
}

func (a *agentChild) stop() {
	a.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
	<-a.ended
	a.cmd.Wait() //nolint:errcheck // its status is not looked at
}

// says is the first line that holds all the texts, "" if there is none.
func (a *agentChild) says(texts ...string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, line := range a.lines {
		all := true
		for _, text := range texts {
			all = all && strings.Contains(line, text)
		}
		if all {
			return line
		}
	}
	return ""
}

// wait waits until it says so, and returns how long that took.
func (a *agentChild) wait(texts ...string) time.Duration {
	a.t.Helper()
	start := time.Now()
	for time.Since(start) < 60*time.Second {
		if a.says(texts...) != "" {
			return time.Since(start)
		}
		time.Sleep(5 * time.Millisecond)
	}
	a.t.Fatalf("it never said %q", texts)
	return 0
}

// named is a pod of testdata under another uid, with one container.
func named(t *testing.T, record, uid, id string) map[string]any {
	t.Helper()
	pod := kubetest.ReadObject(t, filepath.Join("..", "..", "kube", "testdata", record+".json"))
	meta := pod["metadata"].(map[string]any)
	meta["uid"], meta["name"] = uid, record+"-"+uid
	statuses := pod["status"].(map[string]any)["containerStatuses"].([]any)
	statuses[0].(map[string]any)["containerID"] = "containerd://" + id
	return pod
}

// hexID is 64 hexadecimal digits, uidOf a uid, of this test run's own.
func hexID(n int) string { return fmt.Sprintf("%032x%032x", os.Getpid(), n) }
func uidOf(n int) string { return fmt.Sprintf("%08x-0000-4000-8000-%012x", os.Getpid(), n) }

// TestRunFollowsPods runs the agent beside real processes in cgroups as a
// container runtime makes them.
func TestRunFollowsPods(t *testing.T) {
	needRoot(t)
	server := kubetest.New(t)
	first := within(t, container(t, uidOf(1), hexID(1)))
	late := within(t, container(t, uidOf(2), hexID(2)))
	own := within(t, container(t, uidOf(3), hexID(3)), "OTEL_SERVICE_NAME=own")
	spared := within(t, container(t, uidOf(4), hexID(4)))
	server.Put(named(t, "deployment", uidOf(1), hexID(1)))
	server.Put(named(t, "deployment", uidOf(3), hexID(3)))

	a := runChild(t, fmt.Sprintf(`
targets:
  - {k8s: {namespace: shop, labels: {tier: gold}}, exclude: true}
  - {k8s: {namespace: shop, deployment: "cart*", container: app}}
  - {k8s: {namespace: shop, statefulset: db}}
kubernetes: {kubeconfig: %q, node: node-a}
telemetry: {listen: "off"}
`, server.Kubeconfig()))
	selected := func(cmd *exec.Cmd, service string) []string {
		return []string{`msg="process selected"`, fmt.Sprintf("pid=%d ", cmd.Process.Pid), "service=" + service}
	}
	a.wait("weft is tracing")
	a.wait(selected(first, "cart")...)
	a.wait(selected(own, "own")...)
	// Its process runs already when the pod appears.
	server.Put(named(t, "statefulset", uidOf(2), hexID(2)))
	// Milliseconds; a busy machine may take seconds, a retry would take longer.
	const prompt = 8 * time.Second
	if took := a.wait(selected(late, "postgres")...); took > prompt {
		t.Errorf("a pod that appears was followed after %v", took)
	}
	// One that is created while its pod is known.
	dir := container(t, uidOf(1), hexID(1))
	if took := a.wait(selected(within(t, dir), "cart")...); took > prompt {
		t.Errorf("a process of a known pod was selected after %v", took)
	}
	// Not one whose pod the exclude is for.
	pod := named(t, "statefulset", uidOf(4), hexID(4))
	pod["metadata"].(map[string]any)["labels"].(map[string]any)["tier"] = "gold"
	server.Put(pod)
	server.Put(named(t, "statefulset", uidOf(5), hexID(5)))
	a.wait(selected(within(t, container(t, uidOf(5), hexID(5))), "postgres")...)
	if line := a.says(selected(spared, "")[:2]...); line != "" {
		t.Errorf("excluded, and %s", line)
	}
	if line := a.says("level=WARN", "ubernetes"); line != "" {
		t.Error(line)
	}
}

func TestRunWithoutPods(t *testing.T) {
	needRoot(t)
	pid := fmt.Sprintf("{pid: %d}", os.Getpid())
	server := kubetest.New(t)
	forbidden := kubetest.New(t)
	forbidden.Allow(kubetest.List, false)
	forbidden.Allow(kubetest.Watch, false)
	gone := server.Kubeconfig()
	server.Stop()
	for _, c := range []struct{ name, config, says string }{
		{"not in Kubernetes", "targets: [" + pid + ", {k8s: {namespace: shop}}]\n", "not in a pod, and kubernetes.kubeconfig is not set"},
		{"off", "targets: [" + pid + ", {k8s: {namespace: shop}}]\nkubernetes: {metadata: off}\n", "kubernetes.metadata is off"},
		{"unreachable", "targets: [" + pid + "]\nkubernetes: {node: a, kubeconfig: " + gone + "}\n", "connection refused"},
		{"wrong RBAC", "targets: [" + pid + "]\nkubernetes: {node: a, kubeconfig: " + forbidden.Kubeconfig() + "}\n", "weft:weft may not"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := runChild(t, c.config+"telemetry: {listen: \"off\"}\n")
			a.wait("level=WARN", c.says)
			a.wait(`msg="process selected"`, fmt.Sprintf("pid=%d ", os.Getpid()))
		})
	}
	t.Run("no kubeconfig", func(t *testing.T) {
		a := runChild(t, "targets: ["+pid+"]\nkubernetes: {kubeconfig: /nonexistent/kubeconfig}\n")
		a.wait("weft: kubernetes.kubeconfig: read /nonexistent/kubeconfig: ", "no such file")
		<-a.ended
		a.cmd.Wait() //nolint:errcheck // the status is next
		if status := a.cmd.ProcessState.ExitCode(); status != exitUsage {
			t.Errorf("exit status %d", status)
		}
	})
}

// TestDoctorKubernetes needs no root: nothing of the kernel is asked.
func TestDoctorKubernetes(t *testing.T) {
	server := kubetest.New(t)
	server.Put(named(t, "deployment", uidOf(1), hexID(1)))
	file := server.Kubeconfig()
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("WEFT_KUBERNETES_NODE", "node-a")
	row := func() capability {
		t.Helper()
		c, err := config.Load("", os.Environ())
		if err != nil {
			t.Fatal(err)
		}
		return (&examination{ctx: t.Context(), config: c}).kubernetesRow()
	}
	expect := func(what string, s state, why string) {
		t.Helper()
		c := row()
		if c.State != s || !strings.Contains(c.Why, why) || s == stateMissing && (c.Effect == "" || c.Mend == "") {
			t.Errorf("%s: %+v", what, c)
		}
	}
	expect("nowhere", stateOK, "not asked: "+kube.ErrNotInKubernetes.Error())
	t.Setenv("WEFT_TARGETS", "[{k8s: {namespace: shop}}]")
	expect("nowhere, and asked for", stateMissing, kube.ErrNotInKubernetes.Error())
	t.Setenv("WEFT_KUBERNETES_KUBECONFIG", file)
	expect("all is well", stateOK, "1 pod of node node-a can be listed and watched")
	server.Allow(kubetest.Watch, false)
	expect("no watch", stateMissing, "system:serviceaccount:weft:weft may not watch pods")
	server.Allow(kubetest.List, false)
	expect("no rights", stateMissing, "may not list pods; system:serviceaccount:weft:weft may not watch pods")
	server.Stop()
	expect("unreachable", stateMissing, "connection refused")
	t.Setenv("WEFT_KUBERNETES_METADATA", "off")
	expect("off", stateOK, "kubernetes.metadata is off")
	t.Setenv("WEFT_KUBERNETES_METADATA", "auto")
	t.Setenv("WEFT_KUBERNETES_KUBECONFIG", "/nonexistent/kubeconfig")
	expect("no kubeconfig", stateMissing, "/nonexistent/kubeconfig")
}
