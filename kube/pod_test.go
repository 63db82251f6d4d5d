package kube

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// decoded is an object of testdata as the client would decode and trim it.
func decoded(t testing.TB, name string) *object {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	o := &object{}
	if err := json.Unmarshal(b, o); err != nil {
		t.Fatal(err)
	}
	if _, err := trim(o); err != nil {
		t.Fatal(err)
	}
	return o
}

// ident is the id of the container that testdata marks with that letter.
func ident(letter string) string {
	return (strings.Repeat(letter, 8) + strings.Repeat("0123456789abcdef", 4))[:64]
}

func TestAttributes(t *testing.T) {
	pods := New(Options{})
	for _, name := range []string{"deployment", "statefulset", "daemonset", "cronjob", "static", "weft"} {
		pods.put(describe(decoded(t, name)))
	}
	for _, c := range []struct {
		name, path string
		want       map[string]string
	}{
		{"deployment", "/kubepods/burstable/pod5f2c1a9e-3b7d-4c1e-9a52-0d6f8e4b7c31/" + ident("a"), map[string]string{
			"service.name": "cart", "service.namespace": "shop", "service.version": "1.4.2",
			"k8s.namespace.name": "shop", "k8s.pod.name": "cart-6c7d9f5b8d-x2x9k", "k8s.pod.uid": "5f2c1a9e-3b7d-4c1e-9a52-0d6f8e4b7c31",
			"k8s.node.name": "node-a", "k8s.deployment.name": "cart", "k8s.replicaset.name": "cart-6c7d9f5b8d",
			"k8s.container.name": "app", "container.id": ident("a"), "container.image.name": "registry.example:5000/shop/cart",
		}},
		{"its second container", "/kubepods/burstable/pod5f2c1a9e-3b7d-4c1e-9a52-0d6f8e4b7c31/" + ident("b"), map[string]string{
			"service.name": "cart", "service.namespace": "shop", "service.version": "v1.31.0@sha256:" + strings.Repeat("ab", 32),
			"k8s.namespace.name": "shop", "k8s.pod.name": "cart-6c7d9f5b8d-x2x9k", "k8s.pod.uid": "5f2c1a9e-3b7d-4c1e-9a52-0d6f8e4b7c31",
			"k8s.node.name": "node-a", "k8s.deployment.name": "cart", "k8s.replicaset.name": "cart-6c7d9f5b8d",
			"k8s.container.name": "proxy", "container.id": ident("b"), "container.image.name": "docker.io/envoyproxy/envoy",
		}},
		{"a container not reported yet", "/kubepods/burstable/pod5f2c1a9e-3b7d-4c1e-9a52-0d6f8e4b7c31/" + ident("0"), map[string]string{
			"service.name": "cart", "service.namespace": "shop",
			"k8s.namespace.name": "shop", "k8s.pod.name": "cart-6c7d9f5b8d-x2x9k", "k8s.pod.uid": "5f2c1a9e-3b7d-4c1e-9a52-0d6f8e4b7c31",
			"k8s.node.name": "node-a", "k8s.deployment.name": "cart", "k8s.replicaset.name": "cart-6c7d9f5b8d", "container.id": ident("0"),
		}},
		{"statefulset, labels before owner and image", "/kubepods/besteffort/pod7e1d0c3b-1111-4d2a-8c8f-2b9f6a5d4e10/crio-" + ident("d"), map[string]string{
			"service.name": "postgres", "service.namespace": "shop", "service.version": "16.3",
			"k8s.namespace.name": "shop", "k8s.pod.name": "db-0", "k8s.pod.uid": "7e1d0c3b-1111-4d2a-8c8f-2b9f6a5d4e10", "k8s.node.name": "node-a",
			"k8s.statefulset.name": "db", "k8s.container.name": "postgres", "container.id": ident("d"), "container.image.name": "postgres",
		}},
		{"daemonset, annotations before all else", "/docker/" + ident("e"), map[string]string{
			"service.name": "node-metrics", "service.namespace": "platform", "service.version": "9.9", "deployment.environment.name": "prod",
			"k8s.namespace.name": "monitoring", "k8s.pod.name": "exporter-7wq4m", "k8s.pod.uid": "8f2e1d4c-2222-4e3b-9d90-3ca07b6e5f21", "k8s.node.name": "node-a",
			"k8s.daemonset.name": "exporter", "k8s.container.name": "exporter", "container.id": ident("e"), "container.image.name": "quay.io/prometheus/node-exporter",
		}},
		// Recorded of a real API server: see test/manifests.
		{"weft itself", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod19b9dee1_258d_4107_be73_2a9441f85beb.slice/cri-containerd-" + strings.Repeat("3e", 32) + ".scope", map[string]string{
			"service.name": "weft", "service.namespace": "weft", "service.version": "dev",
			"k8s.namespace.name": "weft", "k8s.pod.name": "weft-8xk2p", "k8s.pod.uid": "19b9dee1-258d-4107-be73-2a9441f85beb", "k8s.node.name": "node-1",
			"k8s.daemonset.name": "weft", "k8s.container.name": "weft", "container.id": strings.Repeat("3e", 32), "container.image.name": "registry.example/weft",
		}},
		{"cronjob", "/kubepods/pod90a3f25d-3333-4f4c-8ea1-4db18c7f6032/" + ident("f"), map[string]string{
			"service.name": "report", "service.namespace": "batch",
			"k8s.namespace.name": "batch", "k8s.pod.name": "report-29660655-5lk2c", "k8s.pod.uid": "90a3f25d-3333-4f4c-8ea1-4db18c7f6032", "k8s.node.name": "node-a",
			"k8s.cronjob.name": "report", "k8s.job.name": "report-29660655", "k8s.container.name": "report", "container.id": ident("f"), "container.image.name": "busybox",
		}},
		{"a static pod, by the hash in its path", "/kubepods/burstable/poda3f1c9d2e4b5867708192a3b4c5d6e7f/" + ident("0"), map[string]string{
			"service.name": "etcd-node-a", "service.namespace": "kube-system",
			"k8s.namespace.name": "kube-system", "k8s.pod.name": "etcd-node-a", "k8s.pod.uid": "a1b4036e-4444-405d-9fb2-5ec29d807143", "k8s.node.name": "node-a", "container.id": ident("0"),
		}},
	} {
		found, ok := pods.Find(1, c.path)
		if !ok {
			t.Errorf("%s: not found", c.name)
			continue
		}
		equalAttributes(t, c.name, found.Attributes(), c.want)
	}
}

// The next process of a container must not find what one did to the attributes.
func TestAttributesAreTheCallers(t *testing.T) {
	c := Container{ID: id, Pod: describe(decoded(t, "daemonset"))}
	first := c.Attributes()
	want := maps.Clone(first)
	clear(first)
	if got := c.Attributes(); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestOwners(t *testing.T) {
	created := time.Date(2026, 5, 24, 16, 15, 30, 0, time.UTC)
	for job, want := range map[string]string{
		"report-29660655":        "report",
		"a-b-29660655":           "a-b",
		"report-29660000":        "report", // 11 hours before, a retry
		"report-29650000":        "",       // a week before
		"report-29680000":        "",       // to come
		"import-20260524":        "",       // a date: minutes of 2008
		"report-29660655-manual": "",
		"report":                 "",
		"-29660655":              "",
	} {
		if got := cronJobOf(job, created); got != want {
			t.Errorf("cronJobOf(%q) = %q, want %q", job, got, want)
		}
	}
	for _, c := range []struct{ replicaSet, hash, want string }{
		{"cart-6c7d9f5b8d", "6c7d9f5b8d", "cart"}, {"cart-v2-6c7d9f5b8d", "6c7d9f5b8d", "cart-v2"},
		{"cart-6c7d9f5b8d", "", ""}, {"cart", "6c7d9f5b8d", ""}, {"cart-6c7d9f5b8d", "9f5b8d", ""},
	} {
		if got := deploymentOf(c.replicaSet, c.hash); got != c.want {
			t.Errorf("deploymentOf(%q, %q) = %q, want %q", c.replicaSet, c.hash, got, c.want)
		}
	}
	// The same kind of somebody else's is not what it says.
	o := decoded(t, "statefulset")
	o.OwnerReferences[0].APIVersion = "apps.kruise.io/v1beta1"
	if p := describe(o); p.StatefulSet != "" || p.service() != "postgres" {
		t.Errorf("%+v", p)
	}
	// Nor is an owner that does not control it.
	o = &object{}
	o.OwnerReferences = decoded(t, "statefulset").OwnerReferences
	no := false
	o.OwnerReferences[0].Controller = &no
	if _, err := trim(o); err != nil || len(o.OwnerReferences) != 0 {
		t.Errorf("%v, %v", err, o.OwnerReferences)
	}
}

func TestSplitImage(t *testing.T) {
	digest := "sha256:" + strings.Repeat("ab", 32)
	for ref, want := range map[string][2]string{
		"":                           {"", ""},
		"busybox":                    {"busybox", ""},
		"busybox:1.36":               {"busybox", "1.36"},
		"host:5000/busybox":          {"host:5000/busybox", ""},
		"host:5000/a/b:v1":           {"host:5000/a/b", "v1"},
		"busybox@" + digest:          {"busybox", digest},
		"host:5000/b:1@" + digest:    {"host:5000/b", "1@" + digest},
		"registry.k8s.io/etcd:3.5-0": {"registry.k8s.io/etcd", "3.5-0"},
	} {
		if name, version := splitImage(ref); name != want[0] || version != want[1] {
			t.Errorf("%q: %q, %q, want %q", ref, name, version, want)
		}
	}
}

func TestTrim(t *testing.T) {
	o := decoded(t, "daemonset")
	if o.ManagedFields != nil || o.GenerateName != "" {
		t.Errorf("kept: %+v", o.ObjectMeta)
	}
	for k := range o.Annotations {
		if k != annotationMirror && !strings.HasPrefix(k, annotationResource) {
			t.Errorf("kept annotation %s", k)
		}
	}
	once := describe(o)
	if _, err := trim(o); err != nil {
		t.Fatal(err)
	}
	if twice := describe(o); !once.same(twice) || once.DaemonSet != "exporter" || len(once.Labels) != 3 {
		t.Errorf("trimmed twice: %+v, once: %+v", twice, once)
	}
	if other, err := trim("something else"); err != nil || other != "something else" {
		t.Errorf("%v, %v", other, err)
	}
}

func TestDeepCopy(t *testing.T) {
	list := &objects{Items: []object{*decoded(t, "deployment"), *decoded(t, "static")}}
	want, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	c := list.DeepCopyObject().(*objects)
	if !reflect.DeepEqual(c, list) {
		t.Errorf("got %+v, want %+v", c, list)
	}
	c.Items[0].Labels["app"] = "other"
	for _, l := range c.Items[0].lists() {
		for i := range *l {
			(*l)[i].Name = "other"
		}
	}
	if got, err := json.Marshal(list); err != nil || string(got) != string(want) {
		t.Errorf("%v: the copy shares memory with the original:\n%s\n%s", err, got, want)
	}
}

// Every field that is kept must count as a change, or targets and attributes
// would not follow it.
func TestSameSeesEveryField(t *testing.T) {
	for name, change := range map[string]func(*Pod){
		"UID": func(p *Pod) { p.UID = "x" }, "Namespace": func(p *Pod) { p.Namespace = "x" }, "Name": func(p *Pod) { p.Name = "x" },
		"Node": func(p *Pod) { p.Node = "x" }, "Labels": func(p *Pod) { p.Labels = map[string]string{"a": "b"} },
		"Deployment": func(p *Pod) { p.Deployment = "x" }, "ReplicaSet": func(p *Pod) { p.ReplicaSet = "x" },
		"StatefulSet": func(p *Pod) { p.StatefulSet = "x" }, "DaemonSet": func(p *Pod) { p.DaemonSet = "x" },
		"CronJob": func(p *Pod) { p.CronJob = "x" }, "Job": func(p *Pod) { p.Job = "x" },
		"attributes": func(p *Pod) { p.attributes = map[string]string{"a": "b"} }, "mirror": func(p *Pod) { p.mirror = "x" },
		"containers": func(p *Pod) { p.containers[0].Image = "x" },
	} {
		p, q := describe(decoded(t, "deployment")), describe(decoded(t, "deployment"))
		if !p.same(q) {
			t.Fatal("equal pods differ")
		}
		change(q)
		if p.same(q) {
			t.Errorf("a change of %s is not seen", name)
		}
	}
	if n := reflect.TypeFor[Pod]().NumField(); n != 14 {
		t.Errorf("Pod has %d fields, and this test changes 14", n)
	}
}
