package manifests

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// pod is the DaemonSet's pod as a node runs it: containerd's own default
// specification and seccomp profile, the manifest's changes to them, and runc.
type pod struct {
	t      *testing.T
	id     string
	state  string // runc's
	bundle string
	cmd    *exec.Cmd
	ended  chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

func (p *pod) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *pod) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// specification is what containerd hands to runc for the container. What it does
// not hold is not tested: AppArmor and SELinux, and the API server.
func specification(t *testing.T, in *install, host tree, name, config string, env ...string) *specs.Spec {
	t.Helper()
	spec, container := in.pod(), in.container()
	security := container.SecurityContext
	if !spec.HostPID || spec.HostNetwork || spec.HostIPC {
		t.Fatal("want the host's processes, and no other namespace of the host")
	}
	mine, err := cap.Current()
	if err != nil {
		t.Fatal(err)
	}
	var capabilities []string
	for _, c := range security.Capabilities.Add {
		name := "CAP_" + string(c)
		if !slices.Contains(mine, name) {
			t.Logf("without %s, which this machine keeps to itself", name)
			continue
		}
		capabilities = append(capabilities, name)
	}
	for _, e := range container.Env {
		if e.ValueFrom != nil {
			e.Value = node // spec.nodeName
		}
		env = append(env, e.Name+"="+e.Value)
	}
	options := []oci.SpecOpts{
		oci.WithDefaultPathEnv,
		oci.WithEnv(env),
		oci.WithProcessArgs(append([]string{"/usr/bin/weft"}, container.Args...)...), // ENTRYPOINT of the Dockerfile
		oci.WithProcessCwd("/tmp"),
		oci.WithHostNamespace(specs.PIDNamespace),
		oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.CgroupNamespace}), // as on a node with cgroup v2 alone
		oci.WithCapabilities(capabilities),
		oci.WithCgroup(host.path + "/pods/weft/" + name),
		oci.WithMemoryLimit(uint64(container.Resources.Limits.Memory().Value())),
	}
	if *security.ReadOnlyRootFilesystem {
		options = append(options, oci.WithRootFSReadonly())
	}
	if *security.AllowPrivilegeEscalation {
		t.Fatal("privileges may be gained")
	}
	for _, m := range container.VolumeMounts {
		mount := specs.Mount{Destination: m.MountPath, Type: "bind", Options: []string{"rbind", "rprivate", "rw"}}
		if m.ReadOnly {
			mount.Options[2] = "ro"
		}
		switch v := volume(t, spec, m.Name); {
		case v.ConfigMap != nil:
			mount.Source = config
		case v.HostPath != nil:
			mount.Source = v.HostPath.Path
			if mount.Source == "/sys/fs/cgroup" {
				mount.Source = host.dir
			}
		default:
			t.Fatalf("volume %s is neither a ConfigMap nor of the host", m.Name)
		}
		options = append(options, oci.WithMounts([]specs.Mount{mount}))
	}
	if profile := spec.SecurityContext.SeccompProfile; profile == nil || profile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Fatal("not the runtime's seccomp profile")
	}
	options = append(options, seccomp.WithDefaultProfile()) // last: it looks at the capabilities
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	out, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: "weft"}, options...)
	if err != nil {
		t.Fatal(err)
	}
	out.Root.Path = "rootfs" // of the bundle
	out.Process.User = specs.User{UID: uint32(*security.RunAsUser), GID: uint32(*security.RunAsGroup)}
	// A call that the profile refuses ends weft, so that none goes unnoticed.
	out.Linux.Seccomp.DefaultAction, out.Linux.Seccomp.DefaultErrnoRet = specs.ActKillProcess, nil
	return out
}

func volume(t *testing.T, spec *corev1.PodSpec, name string) corev1.VolumeSource {
	t.Helper()
	for _, v := range spec.Volumes {
		if v.Name == name {
			return v.VolumeSource
		}
	}
	t.Fatalf("no volume %s", name)
	return corev1.VolumeSource{}
}

// startPod makes the image's file tree around a binary, and runs it.
func startPod(t *testing.T, name string, spec *specs.Spec) *pod {
	t.Helper()
	p := &pod{t: t, id: fmt.Sprintf("weft-manifests-%d-%s", os.Getpid(), name), state: t.TempDir(), bundle: t.TempDir(), ended: make(chan struct{})}
	for _, dir := range []string{"usr/bin", "tmp", "proc", "sys", "dev", "run", "etc/weft"} {
		if err := os.MkdirAll(filepath.Join(p.bundle, "rootfs", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("cp", weft(t), filepath.Join(p.bundle, "rootfs/usr/bin/weft")).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.bundle, "config.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command("runc", "--root", p.state, "run", "--bundle", p.bundle, p.id)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait() //nolint:errcheck // ProcessState says it
		close(p.ended)
	}()
	t.Cleanup(func() {
		if out, err := p.runc("delete", "--force", p.id); err != nil {
			t.Logf("runc delete: %v\n%s", err, out)
		}
		<-p.ended
		if t.Failed() {
			t.Logf("the pod said:\n%s", p.said())
		}
	})
	return p
}

func (p *pod) runc(args ...string) ([]byte, error) {
	return exec.Command("runc", append([]string{"--root", p.state}, args...)...).CombinedOutput()
}

// pid is the container's process, 0 while there is none.
func (p *pod) pid() int {
	var state struct {
		Pid    int
		Status string
	}
	out, err := exec.Command("runc", "--root", p.state, "state", p.id).Output()
	if err != nil || json.Unmarshal(out, &state) != nil || state.Status != "running" {
		return 0
	}
	return state.Pid
}

// within runs f in the pod's network namespace: sockets that it makes stay there.
func (p *pod) within(f func() error) error {
	errs := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.pid()))
		if err != nil {
			errs <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			errs <- fmt.Errorf("enter the pod's network: %w", err)
			return
		}
		errs <- f()
	}()
	return <-errs
}

// get asks weft's telemetry as kubelet does, by the probe's path and port.
func (p *pod) get(port int32, path string) (int, string, error) {
	var conn net.Conn
	err := p.within(func() (err error) {
		conn, err = net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second)
		return err
	})
	if err != nil {
		return 0, "", err
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
	return answer(client, "http://weft"+path)
}

func answer(client *http.Client, url string) (int, string, error) {
	response, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// sink is an OTLP receiver in the pod's network; it hands over each request.
func (p *pod) sink(port int) <-chan string {
	p.t.Helper()
	got := make(chan string, 1024)
	var listener net.Listener
	if err := p.within(func() (err error) {
		listener, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		return err
	}); err != nil {
		p.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/x-protobuf")
		select {
		case got <- string(body):
		default:
		}
	})}
	go server.Serve(listener) //nolint:errcheck // until it is closed
	p.t.Cleanup(func() { server.Close() })
	return got
}

// until tries f for as long as a busy machine may take.
func (p *pod) until(what string, f func() (bool, string)) {
	p.t.Helper()
	last := ""
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		select {
		case <-p.ended:
			p.t.Fatalf("%s: weft has ended: %v", what, p.cmd.ProcessState)
		default:
		}
		ok, now := f()
		if ok {
			return
		}
		last = now
	}
	p.t.Fatalf("%s: not within two minutes: %s", what, last)
}

// needs skips where no container can be run as a node does it.
func needs(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: runs a container that loads BPF programs")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("needs runc: apt-get install runc")
	}
}

// passes waits until a probe of the manifest does, and returns what weft answered.
func (p *pod) passes(in *install, probe *corev1.Probe) (said string) {
	p.t.Helper()
	p.until(probe.HTTPGet.Path, func() (bool, string) {
		if p.pid() == 0 {
			return false, "no process"
		}
		status, body, err := p.get(probePort(p.t, in, probe), probe.HTTPGet.Path)
		said = strings.TrimSpace(body)
		return status == http.StatusOK, fmt.Sprint(status, " ", body, err)
	})
	return said
}

// terminate ends it as kubelet does.
func (p *pod) terminate(in *install) {
	p.t.Helper()
	began := time.Now()
	if out, err := p.runc("kill", p.id, "TERM"); err != nil {
		p.t.Fatalf("runc kill: %v\n%s", err, out)
	}
	grace := time.Duration(*in.pod().TerminationGracePeriodSeconds) * time.Second
	select {
	case <-p.ended:
	case <-time.After(grace):
		p.t.Fatalf("has not ended within the %v that the pod has for it", grace)
	}
	if !p.cmd.ProcessState.Success() || !strings.Contains(p.said(), "weft: stopped") {
		p.t.Errorf("ended with %v", p.cmd.ProcessState)
	}
	p.t.Logf("ended within %v of SIGTERM", time.Since(began))
}
