package kube

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// object is what weft reads of a Pod; its decoder skips the rest, so that
// volumes, environments and conditions are never held. It stands for k8s.io/api's
// type, which would cost 5 MB of binary.
type object struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   objectSpec   `json:"spec"`
	Status objectStatus `json:"status"`
}

type objectSpec struct {
	NodeName            string            `json:"nodeName"`
	Containers          []objectContainer `json:"containers"`
	InitContainers      []objectContainer `json:"initContainers"`
	EphemeralContainers []objectContainer `json:"ephemeralContainers"`
}

type objectStatus struct {
	ContainerStatuses          []objectContainer `json:"containerStatuses"`
	InitContainerStatuses      []objectContainer `json:"initContainerStatuses"`
	EphemeralContainerStatuses []objectContainer `json:"ephemeralContainerStatuses"`
}

// objectContainer is a container of the spec, or its status.
type objectContainer struct {
	Name        string `json:"name"`
	Image       string `json:"image,omitempty"`
	ContainerID string `json:"containerID,omitempty"` // "containerd://<id>"; of a status
}

// objects is a list of them.
type objects struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []object `json:"items"`
}

// DeepCopyObject is what runtime.Object asks for.
func (o *object) DeepCopyObject() runtime.Object {
	c := *o
	o.DeepCopyInto(&c.ObjectMeta)
	for _, list := range c.lists() {
		*list = slices.Clone(*list)
	}
	return &c
}

// DeepCopyObject is what runtime.Object asks for.
func (o *objects) DeepCopyObject() runtime.Object {
	c := *o
	o.DeepCopyInto(&c.ListMeta)
	c.Items = make([]object, len(o.Items))
	for i := range o.Items {
		c.Items[i] = *o.Items[i].DeepCopyObject().(*object)
	}
	return &c
}

// lists are all lists of containers that it holds.
func (o *object) lists() []*[]objectContainer {
	return []*[]objectContainer{&o.Spec.Containers, &o.Spec.InitContainers, &o.Spec.EphemeralContainers,
		&o.Status.ContainerStatuses, &o.Status.InitContainerStatuses, &o.Status.EphemeralContainerStatuses}
}

// Annotations that are kept.
const (
	annotationResource = "resource.opentelemetry.io/" // prefix
	// Kubelet names the cgroup of a static pod after this hash, not after the
	// uid of the mirror pod in the API.
	annotationMirror = "kubernetes.io/config.mirror"
)

// trim leaves out of the metadata what weft does not read. It may see an object
// twice.
func trim(in any) (any, error) {
	o, ok := in.(*object)
	if !ok {
		return in, nil
	}
	kept := metav1.ObjectMeta{
		Name: o.Name, Namespace: o.Namespace, UID: o.UID, ResourceVersion: o.ResourceVersion,
		CreationTimestamp: o.CreationTimestamp, Labels: o.Labels,
	}
	for _, owner := range o.OwnerReferences {
		if owner.Controller != nil && *owner.Controller {
			kept.OwnerReferences = []metav1.OwnerReference{{APIVersion: owner.APIVersion, Kind: owner.Kind, Name: owner.Name, Controller: owner.Controller}}
		}
	}
	for k, v := range o.Annotations {
		if k == annotationMirror || strings.HasPrefix(k, annotationResource) {
			if kept.Annotations == nil {
				kept.Annotations = map[string]string{}
			}
			kept.Annotations[k] = v
		}
	}
	o.ObjectMeta = kept
	return o, nil
}

// newScheme knows pods, as object, and what every request needs.
func newScheme() *runtime.Scheme {
	version := schema.GroupVersion{Version: "v1"}
	s := runtime.NewScheme()
	s.AddKnownTypeWithName(version.WithKind("Pod"), &object{})
	s.AddKnownTypeWithName(version.WithKind("PodList"), &objects{})
	metav1.AddToGroupVersion(s, version)
	return s
}
