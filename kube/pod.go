package kube

import (
	"maps"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Pod is what weft knows of a pod. It is never changed: a change in the API makes
// a new one.
type Pod struct {
	UID       string
	Namespace string
	Name      string
	Node      string
	Labels    map[string]string
	// What controls it, "" where it is something else. A Deployment comes with
	// its ReplicaSet, a CronJob with its Job.
	Deployment, ReplicaSet, StatefulSet, DaemonSet, CronJob, Job string

	attributes map[string]string // by its annotations
	mirror     string            // config hash of a static pod
	containers []Container
}

// Container is a container that a process runs in.
type Container struct {
	ID    string
	Name  string // "" as long as its pod does not name it
	Image string // as in the pod's spec
	Pod   *Pod   // nil: not a pod's, or not known
	// PodUID is that of the cgroup; it is known before the pod is.
	PodUID string
}

const (
	labelName         = "app.kubernetes.io/name"
	labelVersion      = "app.kubernetes.io/version"
	labelTemplateHash = "pod-template-hash"
)

// describe is the pod as weft keeps it.
func describe(o *object) *Pod {
	p := &Pod{
		UID: string(o.UID), Namespace: o.Namespace, Name: o.Name, Node: o.Spec.NodeName, Labels: o.Labels,
		mirror: o.Annotations[annotationMirror], attributes: map[string]string{},
	}
	for k, v := range o.Annotations {
		if key, ok := strings.CutPrefix(k, annotationResource); ok && key != "" && v != "" {
			p.attributes[key] = v
		}
	}
	for _, owner := range o.OwnerReferences {
		group, _, _ := strings.Cut(owner.APIVersion, "/")
		switch owner.Kind + "." + group {
		case "ReplicaSet.apps":
			p.ReplicaSet = owner.Name
			p.Deployment = deploymentOf(owner.Name, o.Labels[labelTemplateHash])
		case "StatefulSet.apps":
			p.StatefulSet = owner.Name
		case "DaemonSet.apps":
			p.DaemonSet = owner.Name
		case "Job.batch":
			p.Job = owner.Name
			p.CronJob = cronJobOf(owner.Name, o.CreationTimestamp.Time)
		}
	}
	images := map[string]string{}
	for _, list := range [][]objectContainer{o.Spec.InitContainers, o.Spec.EphemeralContainers, o.Spec.Containers} {
		for _, c := range list {
			images[c.Name] = c.Image
		}
	}
	for _, list := range [][]objectContainer{o.Status.InitContainerStatuses, o.Status.EphemeralContainerStatuses, o.Status.ContainerStatuses} {
		for _, c := range list {
			if _, id, ok := strings.Cut(c.ContainerID, "://"); ok && id != "" {
				p.containers = append(p.containers, Container{ID: id, Name: c.Name, Image: images[c.Name], Pod: p, PodUID: p.UID})
			}
		}
	}
	return p
}

// deploymentOf takes the hash that a Deployment gives to its ReplicaSet, and to
// its pods as a label, off the ReplicaSet's name. A ReplicaSet of nobody's has no
// such label: so no right to read ReplicaSets is needed.
func deploymentOf(replicaSet, hash string) string {
	if name, ok := strings.CutSuffix(replicaSet, "-"+hash); ok && hash != "" {
		return name
	}
	return ""
}

// scheduled ends the name of a CronJob's Job: minutes since 1970.
var scheduled = regexp.MustCompile(`^(.+)-([0-9]{8,9})$`)

// cronJobSlack is how far a Job's pods may be from the time in its name: retries
// come later, clocks differ.
const cronJobSlack = 24 * time.Hour

// cronJobOf is the CronJob that made a Job of that name, "" if its name is not
// made of a time about when its pod was created: "import-20260101" is no CronJob's.
func cronJobOf(job string, created time.Time) string {
	m := scheduled.FindStringSubmatch(job)
	if m == nil {
		return ""
	}
	minutes, err := strconv.ParseInt(m[2], 10, 64)
	if err != nil {
		return ""
	}
	if d := created.Sub(time.Unix(minutes*60, 0)); d < -cronJobSlack || d > cronJobSlack {
		return ""
	}
	return m[1]
}

// same says whether nothing that a target or an attribute looks at differs.
func (p *Pod) same(q *Pod) bool {
	if p.UID != q.UID || p.Namespace != q.Namespace || p.Name != q.Name || p.Node != q.Node || p.mirror != q.mirror ||
		p.Deployment != q.Deployment || p.ReplicaSet != q.ReplicaSet || p.StatefulSet != q.StatefulSet ||
		p.DaemonSet != q.DaemonSet || p.CronJob != q.CronJob || p.Job != q.Job ||
		!maps.Equal(p.Labels, q.Labels) || !maps.Equal(p.attributes, q.attributes) || len(p.containers) != len(q.containers) {
		return false
	}
	for i, c := range p.containers {
		if d := q.containers[i]; c.ID != d.ID || c.Name != d.Name || c.Image != d.Image {
			return false
		}
	}
	return true
}

// service is the name that the pod gives its processes.
func (p *Pod) service() string {
	for _, name := range []string{p.Labels[labelName], p.Deployment, p.ReplicaSet, p.StatefulSet, p.DaemonSet, p.CronJob, p.Job} {
		if name != "" {
			return name
		}
	}
	return p.Name
}

// Attributes are the resource attributes of the container, by the OpenTelemetry
// conventions; service.name among them is a name for want of a better one. They
// are the caller's.
func (c Container) Attributes() map[string]string {
	a := map[string]string{}
	set := func(key, value string) {
		if value != "" {
			a[key] = value
		}
	}
	set("container.id", c.ID)
	set("k8s.pod.uid", c.PodUID)
	p := c.Pod
	if p == nil {
		return a
	}
	image, version := splitImage(c.Image)
	set("container.image.name", image)
	set("k8s.container.name", c.Name)
	set("k8s.pod.uid", p.UID)
	set("k8s.pod.name", p.Name)
	set("k8s.namespace.name", p.Namespace)
	set("k8s.node.name", p.Node)
	set("k8s.deployment.name", p.Deployment)
	set("k8s.replicaset.name", p.ReplicaSet)
	set("k8s.statefulset.name", p.StatefulSet)
	set("k8s.daemonset.name", p.DaemonSet)
	set("k8s.cronjob.name", p.CronJob)
	set("k8s.job.name", p.Job)
	set("service.name", p.service())
	set("service.namespace", p.Namespace)
	set("service.version", version)
	set("service.version", p.Labels[labelVersion])
	maps.Copy(a, p.attributes)
	return a
}

// splitImage takes a reference such as "host:5000/shop/cart:1.2@sha256:…" apart:
// the name, and the version that the conventions make of tag and digest.
func splitImage(ref string) (name, version string) {
	name, digest, hasDigest := strings.Cut(ref, "@")
	tag := ""
	// A colon before the last slash is that of a port.
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, tag = name[:i], name[i+1:]
	}
	switch {
	case hasDigest && tag != "":
		return name, tag + "@" + digest
	case hasDigest:
		return name, digest
	}
	return name, tag
}
