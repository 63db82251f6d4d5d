package config

import (
	"maps"
	"slices"
	"strings"
)

// Kubernetes says whether and how the API server is asked about this node's pods.
type Kubernetes struct {
	// Metadata is on wherever there is an API server to ask, unless it is off.
	Metadata Metadata
	// Kubeconfig is a file that leads to the API server; empty: the service
	// account of the pod that weft runs in.
	Kubeconfig string
	Node       string // empty: the host's name, where weft is not a pod itself
}

// Metadata says whether the API server is asked.
type Metadata string

// Whether the API server is asked.
const (
	MetadataAuto Metadata = "auto"
	MetadataOff  Metadata = "off"
)

// K8s describes containers of pods. Selectors that are set must all match.
type K8s struct {
	Namespace   Glob
	Deployment  Glob
	StatefulSet Glob
	DaemonSet   Glob
	Container   Glob
	Labels      []LabelGlob // sorted by key
}

// LabelGlob wants a label of the pod.
type LabelGlob struct {
	Key   string
	Value Glob
}

// Pod is what Kubernetes says of the container that a process runs in.
type Pod struct {
	Namespace   string
	Deployment  string // "": controlled by something else; likewise the next two
	StatefulSet string
	DaemonSet   string
	Container   string // "": not known yet
	Labels      map[string]string
}

// keys are the selectors by their keys.
func (k *K8s) keys() map[string]*Glob {
	return map[string]*Glob{"namespace": &k.Namespace, "deployment": &k.Deployment, "statefulset": &k.StatefulSet,
		"daemonset": &k.DaemonSet, "container": &k.Container}
}

// IsSet says whether anything is selected by.
func (k *K8s) IsSet() bool {
	return k.Namespace.IsSet() || k.Deployment.IsSet() || k.StatefulSet.IsSet() || k.DaemonSet.IsSet() ||
		k.Container.IsSet() || len(k.Labels) > 0
}

// match says whether every selector matches a pod that is known; unnamed is the
// answer for a container that is not named yet. It does not allocate.
func (k *K8s) match(p *Pod, unnamed bool) bool {
	for _, s := range [...]struct {
		glob  *Glob
		value string
	}{{&k.Namespace, p.Namespace}, {&k.Deployment, p.Deployment}, {&k.StatefulSet, p.StatefulSet}, {&k.DaemonSet, p.DaemonSet}} {
		if s.glob.IsSet() && (s.value == "" || !s.glob.Match(s.value)) {
			return false
		}
	}
	for i := range k.Labels {
		value, ok := p.Labels[k.Labels[i].Key]
		if !ok || !k.Labels[i].Value.Match(value) {
			return false
		}
	}
	switch {
	case !k.Container.IsSet():
		return true
	case p.Container == "":
		return unnamed
	}
	return k.Container.Match(p.Container)
}

// String is "{namespace=shop labels.tier=web}", keys sorted.
func (k *K8s) String() string {
	var parts []string
	globs := k.keys()
	for _, key := range slices.Sorted(maps.Keys(globs)) {
		if globs[key].IsSet() {
			parts = append(parts, key+"="+globs[key].String())
		}
	}
	for _, l := range k.Labels {
		parts = append(parts, "labels."+l.Key+"="+l.Value.String())
	}
	return "{" + strings.Join(parts, " ") + "}"
}

func decodeK8s(v value, into *K8s) {
	fields := map[string]func(value){
		"labels": func(v value) {
			v.pairs("a mapping such as {tier: web}", func(name string, key, item value) {
				if name == "" {
					key.fail("empty label")
					return
				}
				label := LabelGlob{Key: name}
				decodeGlob(item, &label.Value)
				into.Labels = append(into.Labels, label)
			})
			slices.SortFunc(into.Labels, func(a, b LabelGlob) int { return strings.Compare(a.Key, b.Key) })
		},
	}
	for name, glob := range into.keys() {
		fields[name] = func(v value) { decodeGlob(v, glob) }
	}
	bad := v.problems.count()
	if !v.mapping(fields) || v.problems.count() > bad {
		return
	}
	var owners []string
	for _, name := range []string{"deployment", "statefulset", "daemonset"} {
		if into.keys()[name].IsSet() {
			owners = append(owners, name)
		}
	}
	if len(owners) > 1 {
		v.fail("no pod has both a %s and a %s; keep one, and write a second entry for the other", owners[0], owners[1])
	}
}
