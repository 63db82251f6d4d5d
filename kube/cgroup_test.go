package kube

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	uid    = "5f2c1a9e-3b7d-4c1e-9a52-0d6f8e4b7c31"
	uid2   = "5f2c1a9e_3b7d_4c1e_9a52_0d6f8e4b7c31" // as systemd's unit names have it
	static = "a3f1c9d2e4b5867708192a3b4c5d6e7f"     // config hash of a static pod
	id     = "3c5d1f0a9b8e7d6c5b4a39281706f5e4d3c2b1a0918273645546372819a0b1c2"
	inner  = "ffee1f0a9b8e7d6c5b4a39281706f5e4d3c2b1a0918273645546372819a0bbbb"
)

func TestParseCgroup(t *testing.T) {
	pod := Cgroup{PodUID: uid, ContainerID: id}
	for _, c := range []struct {
		name, path string
		want       Cgroup
	}{
		{"containerd, systemd, burstable", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uid2 + ".slice/cri-containerd-" + id + ".scope", pod},
		{"containerd, systemd, guaranteed", "/kubepods.slice/kubepods-pod" + uid2 + ".slice/cri-containerd-" + id + ".scope", pod},
		{"containerd, systemd, static pod", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + static + ".slice/cri-containerd-" + id + ".scope", Cgroup{static, id}},
		{"containerd, cgroupfs, besteffort", "/kubepods/besteffort/pod" + uid + "/" + id, pod},
		{"containerd, cgroupfs, guaranteed", "/kubepods/pod" + uid + "/" + id, pod},
		{"containerd, cgroupfs, static pod", "/kubepods/burstable/pod" + static + "/" + id, Cgroup{static, id}},
		{"containerd, kubelet says systemd and it does not", "/system.slice/containerd.service/kubepods-besteffort-pod" + uid2 + ".slice:cri-containerd:" + id, pod},
		{"containerd, the same at the root", "/kubepods-pod" + uid2 + ".slice:cri-containerd:" + id, pod},
		{"CRI-O, systemd", "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + uid2 + ".slice/crio-" + id + ".scope", pod},
		{"CRI-O with crun", "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + uid2 + ".slice/crio-" + id + ".scope/container", pod},
		{"CRI-O, cgroupfs", "/kubepods/burstable/pod" + uid + "/crio-" + id, pod},
		{"CRI-O's conmon in the pod", "/kubepods.slice/kubepods-pod" + uid2 + ".slice/crio-conmon-" + id + ".scope", Cgroup{PodUID: uid}},
		{"Docker, systemd", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uid2 + ".slice/docker-" + id + ".scope", pod},
		{"Docker, cgroupfs", "/kubepods/burstable/pod" + uid + "/" + id, pod},
		{"kind", "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + uid2 + ".slice/cri-containerd-" + id + ".scope", pod},
		{"kind, from its host", "/system.slice/docker-" + inner + ".scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" + uid2 + ".slice/cri-containerd-" + id + ".scope", pod},
		{"minikube on cgroup v1", "/docker/" + inner + "/kubelet/kubepods/besteffort/pod" + uid + "/" + id, pod},
		{"from another cgroup namespace", "/../../kubepods-burstable.slice/kubepods-burstable-pod" + uid2 + ".slice/cri-containerd-" + id + ".scope", pod},
		{"the same, of a neighbour", "/../cri-containerd-" + id + ".scope", Cgroup{ContainerID: id}},
		{"systemd in a container", "/kubepods.slice/kubepods-pod" + uid2 + ".slice/cri-containerd-" + id + ".scope/system.slice/nginx.service", pod},
		{"Docker in a pod", "/kubepods.slice/kubepods-pod" + uid2 + ".slice/cri-containerd-" + id + ".scope/docker/" + inner, pod},
		{"the pod itself", "/kubepods.slice/kubepods-pod" + uid2 + ".slice", Cgroup{PodUID: uid}},
		{"Docker alone, systemd", "/system.slice/docker-" + id + ".scope", Cgroup{ContainerID: id}},
		{"Docker alone, cgroupfs", "/docker/" + id, Cgroup{ContainerID: id}},
		{"Docker in Docker", "/docker/" + inner + "/docker/" + id, Cgroup{ContainerID: id}},
		{"podman", "/machine.slice/libpod-" + id + ".scope/container", Cgroup{ContainerID: id}},
		{"podman, rootless", "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id + ".scope", Cgroup{ContainerID: id}},
		{"podman's conmon", "/machine.slice/libpod-conmon-" + id + ".scope", Cgroup{}},
		{"a service", "/system.slice/nginx.service", Cgroup{}},
		{"the root", "/", Cgroup{}},
		{"nothing", "", Cgroup{}},
		{"an id too short", "/docker/" + id[1:], Cgroup{}},
		{"an id too long", "/docker/a" + id, Cgroup{}},
		{"something called pod", "/system.slice/podman.service/podcast", Cgroup{}},
	} {
		if got := ParseCgroup(c.path); got != c.want {
			t.Errorf("%s: %s: got %+v, want %+v", c.name, c.path, got, c.want)
		}
	}
}

func TestParseCgroups(t *testing.T) {
	v2 := "0::/kubepods.slice/kubepods-pod" + uid2 + ".slice/cri-containerd-" + id + ".scope\n"
	v1 := "12:memory:/kubepods/pod" + uid + "/" + id + "\n11:cpu,cpuacct:/kubepods/pod" + uid + "/" + id + "\n1:name=systemd:/kubepods/pod" + uid + "/" + id + "\n"
	other := "9:pids:/docker/" + inner + "\n"
	pod := Cgroup{uid, id}
	for name, c := range map[string]struct {
		text string
		want Cgroup
	}{
		"v2":                                   {v2, pod},
		"v1":                                   {v1, pod},
		"hybrid, systemd: both say it":         {v1 + v2, pod},
		"hybrid, cgroupfs: v2 has the service": {v1 + "0::/system.slice/containerd.service\n", pod},
		"v2 wins":                              {other + v2, pod},
		"a path with colons":                   {"0::/kubepods-pod" + uid2 + ".slice:cri-containerd:" + id + "\n", pod},
		"no container":                         {"4:memory:/\n0::/init.scope\n", Cgroup{}},
		"without a line's end":                 {strings.TrimSuffix(v2, "\n"), pod},
		"not a cgroup file":                    {"x\n\n:\n", Cgroup{}},
	} {
		if got := parseCgroups(c.text); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

// fakeProc is a /proc that holds these cgroup files, by name of the folder.
func fakeProc(t *testing.T, cgroups map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range cgroups {
		addProcess(t, dir, name, text)
	}
	return dir
}

func addProcess(t *testing.T, proc, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(proc, name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(proc, name, "cgroup"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// inPod is the cgroup file of a process in a container of a pod.
func inPod(pod, container string) string {
	return "0::/kubepods/burstable/pod" + pod + "/" + container + "\n"
}

func TestProcessesWithin(t *testing.T) {
	proc := fakeProc(t, map[string]string{
		"1": "0::/init.scope\n", "20": inPod(uid, id), "21": inPod(uid, id), "22": inPod(uid, inner),
		"30": "0::/kubepods/burstable/pod" + uid + "\n", "self": inPod(uid, id), "sys": "",
	})
	if err := os.Mkdir(filepath.Join(proc, "40"), 0o755); err != nil { // a process that has just ended
		t.Fatal(err)
	}
	got, err := processes{proc}.within(func(c Cgroup) bool { return c.ContainerID == id })
	slices.Sort(got)
	if err != nil || !slices.Equal(got, []uint32{20, 21}) {
		t.Errorf("got %v, %v", got, err)
	}
	got, err = processes{proc}.within(func(c Cgroup) bool { return c.PodUID == uid })
	slices.Sort(got)
	if err != nil || !slices.Equal(got, []uint32{20, 21, 22}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := (processes{filepath.Join(proc, "none")}).within(func(Cgroup) bool { return true }); err == nil {
		t.Error("no /proc, no error")
	}
}

func TestFindWithoutAPI(t *testing.T) {
	v1 := "5:memory:/kubepods/pod" + uid + "/" + id + "\n0::/system.slice/containerd.service\n"
	v2path := "/kubepods/pod" + uid + "/" + id
	hybrid := New(Options{Proc: fakeProc(t, map[string]string{"self": "5:memory:/\n0::/\n", "7": v1})})
	pure := New(Options{Proc: fakeProc(t, map[string]string{"self": "0::/\n", "7": v1})})
	want := map[string]string{"container.id": id, "k8s.pod.uid": uid}
	for name, c := range map[string]struct {
		pods *Pods
		path string
		ok   bool
	}{
		"v2":                        {pure, v2path, true},
		"hybrid, the v2 path tells": {hybrid, v2path, true},
		"hybrid, only v1 tells":     {hybrid, "/system.slice/containerd.service", true},
		"v2, nothing tells":         {pure, "/system.slice/containerd.service", false},
		"v2, a pod's helper":        {pure, "/kubepods/pod" + uid, false},
	} {
		found, ok := c.pods.Find(7, c.path)
		if ok != c.ok {
			t.Errorf("%s: found %t", name, ok)
		}
		if ok {
			equalAttributes(t, name, found.Attributes(), want)
		}
	}
	if c, ok := pure.Find(7, "/docker/"+id); !ok || c.PodUID != "" || len(c.Attributes()) != 1 {
		t.Errorf("Docker alone: %+v, %t", c, ok)
	}
}

func equalAttributes(t *testing.T, name string, got, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s: %s = %q, want %q", name, k, got[k], v)
		}
	}
	for k, v := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("%s: %s = %q, want none", name, k, v)
		}
	}
}

func BenchmarkParseCgroup(b *testing.B) {
	for b.Loop() {
		ParseCgroup("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uid2 + ".slice/cri-containerd-" + id + ".scope")
	}
}

// BenchmarkWithin is what a change of pods costs on a node with 1,000 processes.
func BenchmarkWithin(b *testing.B) {
	proc := b.TempDir()
	for i := range 1000 {
		dir := filepath.Join(proc, strconv.Itoa(i+1))
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup"), []byte(inPod(uid, id)), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if pids, err := (processes{proc}).within(func(c Cgroup) bool { return c.ContainerID == id }); err != nil || len(pids) != 1000 {
			b.Fatal(len(pids), err)
		}
	}
}
