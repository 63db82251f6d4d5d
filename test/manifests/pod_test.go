package manifests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
)

const sinkPort = 4318

// TestPod runs the DaemonSet's pod and traces a program of another pod with it:
// with these capabilities, this seccomp profile, these mounts and no others, in
// namespaces of its own.
func TestPod(t *testing.T) {
	needs(t)
	in, host := loadShipped(t), newTree(t)
	caller := callerOf(t, host)
	p := startPod(t, "a", specification(t, in, host, "a", configDir(t, in), selected,
		fmt.Sprintf("OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:%d", sinkPort), "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"))
	p.until("running", func() (bool, string) { return p.pid() != 0, "no process" })
	got := p.sink(sinkPort)
	for _, probe := range []*corev1.Probe{in.container().StartupProbe, in.container().LivenessProbe, in.container().ReadinessProbe} {
		p.passes(in, probe)
	}
	p.until("traceparent", func() (bool, string) { return carries(caller) })
	p.until("spans", func() (bool, string) {
		select {
		case spans := <-got: // the names in it are as they are written
			return strings.Contains(spans, "host.name") && strings.Contains(spans, node), "spans of another host"
		default:
			return false, "none"
		}
	})
	for range 500 {
		if _, said := carries(caller); !strings.HasPrefix(said, "200 ") {
			t.Fatalf("a traced request fails: %s", said)
		}
	}
	p.logMemory(host)
	// What an administrator would run there says the same.
	out, err := p.runc("exec", p.id, "/usr/bin/weft", "doctor")
	t.Logf("weft doctor, in the pod: %v\n%s", err, out)
	if err != nil {
		t.Errorf("weft doctor in the pod: %v", err)
	}
	p.terminate(in)
}

// TestPodMemory: with the component, weft holds in the pod what writing into programs'
// memory takes; without, it says that it lacks it.
func TestPodMemory(t *testing.T) {
	needs(t)
	host := newTree(t)
	for name, in := range map[string]*install{"without": loadShipped(t), "with": withMemory(t, shipped)} {
		p := startPod(t, name, specification(t, in, host, name, configDir(t, in), "OTEL_SDK_DISABLED=true", "WEFT_TARGETS=[{exe: '*/gosvc'}]"))
		p.passes(in, in.container().ReadinessProbe)
		out, err := p.runc("exec", p.id, "/usr/bin/weft", "doctor", "--json")
		var said struct{ Capabilities []doctorRow }
		// runc's own lines may stand around it.
		if jerr := json.NewDecoder(bytes.NewReader(out[max(bytes.IndexByte(out, '{'), 0):])).Decode(&said); jerr != nil {
			t.Fatalf("%s: weft doctor in the pod: %v, %v\n%s", name, err, jerr, out)
		}
		i := slices.IndexFunc(said.Capabilities, func(r doctorRow) bool { return r.Name == "go.writes" })
		if i < 0 {
			t.Fatalf("weft doctor does not know go.writes:\n%s", out)
		}
		row := said.Capabilities[i]
		t.Logf("%s: %+v", name, row)
		if lacks := strings.Contains(row.Why, "CAP_SYS_ADMIN, which is not held"); lacks != (name == "without") {
			t.Errorf("%s: doctor says %+v", name, row)
		}
		if wrote := fmt.Sprintf(`"go_memory":%v`, row.State == "ok"); !strings.Contains(p.said(), wrote) {
			t.Errorf("%s: the log does not say %s", name, wrote)
		}
		p.terminate(in)
	}
}

// logMemory says what the pod has taken up, the kernel's part included.
func (p *pod) logMemory(host tree) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid()))
	if err == nil {
		_, rss, _ := strings.Cut(string(status), "VmRSS:")
		rss, _, _ = strings.Cut(rss, "\n")
		p.t.Logf("resident: %s", strings.TrimSpace(rss))
	}
	for _, file := range []string{host.dir + "/pods/weft/a/memory.peak", "/sys/fs/cgroup/memory" + host.path + "/pods/weft/a/memory.max_usage_in_bytes"} {
		if peak, err := os.ReadFile(file); err == nil {
			p.t.Logf("most memory charged to the pod: %s", strings.TrimSpace(string(peak)))
		}
	}
}

// TestPodUpdate: the surging pod of an update loads beside the old one, is ready,
// and takes over when that ends.
func TestPodUpdate(t *testing.T) {
	needs(t)
	in, host := loadShipped(t), newTree(t)
	if s := in.daemonSet.Spec.UpdateStrategy.RollingUpdate; s.MaxSurge.IntValue() != 1 || s.MaxUnavailable.IntValue() != 0 {
		t.Fatalf("the update strategy is %+v, want one pod more and none less", s)
	}
	caller := callerOf(t, host)
	pods := map[string]*pod{}
	for _, name := range []string{"old", "next"} {
		p := startPod(t, name, specification(t, in, host, name, configDir(t, in), selected, "OTEL_SDK_DISABLED=true"))
		said := p.passes(in, in.container().ReadinessProbe)
		if standing := strings.Contains(said, "standby"); standing != (name == "next") {
			t.Fatalf("%s: /readyz says %q", name, said)
		}
		pods[name] = p
		p.until("traceparent", func() (bool, string) { return carries(caller) })
	}
	pods["old"].terminate(in)
	next := pods["next"]
	next.until("turn", func() (bool, string) {
		said := next.passes(in, in.container().ReadinessProbe)
		return !strings.Contains(said, "standby"), said
	})
	next.until("traceparent", func() (bool, string) { return carries(caller) })
	next.terminate(in)
}

// TestPodWithoutCgroups: the host's cgroups are what injection needs; without them
// weft says so and only observes.
func TestPodWithoutCgroups(t *testing.T) {
	needs(t)
	in, host := loadShipped(t), newTree(t)
	spec := specification(t, in, host, "a", configDir(t, in), "OTEL_SDK_DISABLED=true", "WEFT_TARGETS=[{exe: '*/gosvc'}]")
	mounts := len(spec.Mounts)
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/sys/fs/cgroup" })
	if len(spec.Mounts) != mounts-1 {
		t.Fatal("the manifest does not mount the host's cgroups")
	}
	caller := callerOf(t, host)
	p := startPod(t, "a", spec)
	p.passes(in, in.container().ReadinessProbe)
	if ok, said := carries(caller); ok || !strings.HasPrefix(said, "200 ") {
		t.Errorf("%s: want an answer without traceparent", said)
	}
	if !strings.Contains(p.said(), "no cgroup v2 hierarchy is mounted") {
		t.Error("weft does not say what is missing")
	}
}
