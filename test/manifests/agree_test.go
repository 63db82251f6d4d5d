package manifests

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// weft is the agent: the one that the Makefile names, or one built here.
func weft(t *testing.T) string {
	t.Helper()
	if built := os.Getenv("WEFT_BIN"); built != "" {
		return built
	}
	return program(t, "./cmd/agent")
}

// program builds one of weft's programs, once for all tests.
func program(t *testing.T, pkg string) string {
	t.Helper()
	programs.mu.Lock()
	defer programs.mu.Unlock()
	out := filepath.Join(programs.dir, filepath.Base(pkg))
	if _, err := os.Stat(out); err == nil {
		return out
	}
	cmd := exec.Command("go", "build", "-C", "../..", "-trimpath", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, text)
	}
	return out
}

// programs are those built already.
var programs struct {
	mu  sync.Mutex
	dir string
}

func TestMain(m *testing.M) {
	var err error
	if programs.dir, err = os.MkdirTemp("", "weft-manifests-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(programs.dir)
	os.Exit(status)
}

// configDir is the ConfigMap as kubelet mounts it.
func configDir(t *testing.T, in *install) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range in.config.Data {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// probePort is the number behind a probe's port.
func probePort(t *testing.T, in *install, probe *corev1.Probe) int32 {
	t.Helper()
	for _, p := range in.container().Ports {
		if p.Name == probe.HTTPGet.Port.StrVal {
			return p.ContainerPort
		}
	}
	t.Fatalf("no port %s", probe.HTTPGet.Port.StrVal)
	return 0
}

// kubernetesRow is what `weft doctor` says of the API server that a kubeconfig
// leads to.
func kubernetesRow(t *testing.T, kubeconfig string) doctorRow {
	t.Helper()
	// Without capabilities it tries nothing else, which takes seconds.
	cmd := exec.Command(weft(t), "doctor", "--json")
	if os.Geteuid() == 0 {
		cmd = exec.Command("setpriv", "--bounding-set=-all", weft(t), "doctor", "--json")
	}
	cmd.Env = append(os.Environ(), "WEFT_KUBERNETES_KUBECONFIG="+kubeconfig, "WEFT_KUBERNETES_NODE="+node)
	out, err := cmd.Output() // its status is about tracing
	var said struct{ Capabilities []doctorRow }
	if json.Unmarshal(out, &said) != nil {
		t.Fatalf("weft doctor: %v\n%s", err, out)
	}
	for _, row := range said.Capabilities {
		if row.Name == "kubernetes" {
			return row
		}
	}
	t.Fatalf("weft doctor says nothing of Kubernetes:\n%s", out)
	return doctorRow{}
}

// inspect has weft read the configuration of a pod, with the pod's variables.
func inspect(t *testing.T, in *install) (string, error) {
	t.Helper()
	name := filepath.Base(in.container().Args[len(in.container().Args)-1])
	cmd := exec.Command(weft(t), "inspect", "--config", filepath.Join(configDir(t, in), name), weft(t))
	for _, e := range in.container().Env {
		if e.ValueFrom != nil {
			e.Value = node
		}
		cmd.Env = append(cmd.Env, e.Name+"="+e.Value)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// checkConfig: weft takes the configuration, from where it is mounted.
func checkConfig(t *testing.T, in *install) {
	t.Helper()
	var mounted []string
	for _, m := range in.container().VolumeMounts {
		if volume(t, in.pod(), m.Name).ConfigMap != nil {
			for name := range in.config.Data {
				mounted = append(mounted, m.MountPath+"/"+name)
			}
		}
	}
	if want := append([]string{"run", "--standby", "--config"}, mounted...); !slices.Equal(in.container().Args, want) {
		t.Errorf("args are %q, want %q", in.container().Args, want)
	}
	if out, err := inspect(t, in); err != nil {
		t.Errorf("weft refuses the configuration: %v\n%s", err, out)
	}
}

// TestConfig: weft takes every key of the ConfigMap and every variable, and can
// refuse.
func TestConfig(t *testing.T) {
	in := loadShipped(t)
	checkConfig(t, in)
	name := slices.Collect(maps.Keys(in.config.Data))[0]
	in.config.Data[name] += "\nsampilng: {ratio: 1}\n"
	if out, err := inspect(t, in); err == nil || !strings.Contains(out, `unknown key "sampilng"`) {
		t.Errorf("weft takes a misspelt key: %v\n%s", err, out)
	}
	in = loadShipped(t)
	in.container().Env = append(in.container().Env, corev1.EnvVar{Name: "WEFT_KUBERNETES_NOED", Value: "x"})
	if out, err := inspect(t, in); err == nil || !strings.Contains(out, "WEFT_KUBERNETES_NOED") {
		t.Errorf("weft takes a misspelt variable: %v\n%s", err, out)
	}
}

// TestNodeName: the variable has the node's name, by the downward API.
func TestNodeName(t *testing.T) {
	for _, e := range loadShipped(t).container().Env {
		if e.Name == "WEFT_KUBERNETES_NODE" && e.ValueFrom != nil && e.ValueFrom.FieldRef != nil && e.ValueFrom.FieldRef.FieldPath == "spec.nodeName" {
			return
		}
	}
	t.Error("WEFT_KUBERNETES_NODE is not the pod's spec.nodeName")
}

// TestTelemetry: the probes ask where weft listens, for what it has there, and
// nothing else listens.
func TestTelemetry(t *testing.T) {
	in := loadShipped(t)
	listen := regexp.MustCompile(`(?m)^ *listen: ":(\d+)"$`).FindStringSubmatch(in.config.Data["weft.yaml"])
	if listen == nil {
		t.Fatal("telemetry.listen is not a port of the pod")
	}
	ports := in.container().Ports
	if len(ports) != 1 || strconv.Itoa(int(ports[0].ContainerPort)) != listen[1] {
		t.Errorf("ports are %+v, weft listens on %s", ports, listen[1])
	}
	if in.pod().HostNetwork || ports[0].HostPort != 0 {
		t.Error("telemetry is on the node's addresses")
	}
	server := read(t, "../../internal/selfstats/server.go")
	for path, probes := range map[string][]*corev1.Probe{
		"/healthz": {in.container().StartupProbe, in.container().LivenessProbe},
		"/readyz":  {in.container().ReadinessProbe},
	} {
		if !strings.Contains(server, `"GET `+path+`"`) {
			t.Errorf("weft does not serve %s", path)
		}
		for _, p := range probes {
			if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != path || p.HTTPGet.Host != "" || p.HTTPGet.Scheme != corev1.URISchemeHTTP {
				t.Errorf("probe %+v, want one of %s", p, path)
			} else if strconv.Itoa(int(probePort(t, in, p))) != listen[1] {
				t.Errorf("%s is asked for on port %s", path, p.HTTPGet.Port.String())
			}
		}
	}
}

// TestPrivileges: what the unit of systemd grants, and nothing but that.
func TestPrivileges(t *testing.T) {
	in := loadShipped(t)
	granted := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindStringSubmatch(read(t, filepath.Join(shipped, "weft.service")))
	if granted == nil {
		t.Fatal("weft.service: no CapabilityBoundingSet")
	}
	var added []string
	s := in.container().SecurityContext
	for _, c := range s.Capabilities.Add {
		added = append(added, "CAP_"+string(c))
	}
	unit := strings.Fields(granted[1])
	slices.Sort(unit)
	slices.Sort(added)
	if !slices.Equal(added, unit) {
		t.Errorf("the pod has %v, the unit %v", added, unit)
	}
	if !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("dropped is %v, want ALL", s.Capabilities.Drop)
	}
	if *s.Privileged || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem {
		t.Errorf("the container may more than it needs: %+v", s)
	}
	for _, m := range in.container().VolumeMounts {
		if m.Name != "tracing" && !m.ReadOnly { // kprobes are made there
			t.Errorf("%s may be written to", m.MountPath)
		}
	}
}

// TestMemory: Go works harder for its memory before the limit is reached, and the
// node keeps what is asked for.
func TestMemory(t *testing.T) {
	in := loadShipped(t)
	limit, request := in.container().Resources.Limits.Memory().Value(), in.container().Resources.Requests.Memory().Value()
	for _, e := range in.container().Env {
		if e.Name != "GOMEMLIMIT" {
			continue
		}
		soft, err := resource.ParseQuantity(strings.TrimSuffix(e.Value, "B"))
		if err != nil || soft.Value() < request || soft.Value() > limit/2 {
			t.Errorf("GOMEMLIMIT is %s (%v): want it between the request (%d) and half of the limit (%d)", e.Value, err, request, limit)
		}
		return
	}
	t.Error("no GOMEMLIMIT: Go would grow to the limit, and be killed")
}

// TestEveryNode: the agent runs wherever pods do, and is not put off the node for
// them.
func TestEveryNode(t *testing.T) {
	in := loadShipped(t)
	pod := in.pod()
	if !slices.Equal(pod.Tolerations, []corev1.Toleration{{Operator: corev1.TolerationOpExists}}) {
		t.Errorf("tolerations are %+v, want every taint", pod.Tolerations)
	}
	if pod.PriorityClassName != "system-node-critical" {
		t.Errorf("priority class is %q", pod.PriorityClassName)
	}
	if pod.ServiceAccountName != in.account.Name || !*pod.AutomountServiceAccountToken {
		t.Error("the pod has no token of its service account")
	}
}
