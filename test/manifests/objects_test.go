// Package manifests holds deploy/daemonset.yaml to what an API server, a node
// and weft itself say of it. The first of these is Kubernetes' own code: the
// types, defaults and checks of the API server, as it links them.
package manifests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/core/resourcequota"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"

	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
)

// shipped are the manifests, example the overlay.
const (
	shipped = "../../deploy"
	example = "../../examples/kubernetes"
)

// shippedText is deploy/daemonset.yaml.
func shippedText(t *testing.T) string {
	t.Helper()
	return read(t, filepath.Join(shipped, "daemonset.yaml"))
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// decode reads documents as the API server does with fieldValidation=Strict, and
// sets its defaults.
func decode(text string) ([]runtime.Object, error) {
	decoder := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	var objects []runtime.Object
	for i, document := range strings.Split(text, "\n---\n") {
		object, _, err := decoder.Decode([]byte(document+"\n"), nil, nil)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		legacyscheme.Scheme.Default(object)
		objects = append(objects, object)
	}
	return objects, nil
}

// admit does with an object what the API server does before it is stored: its
// checks as errors, its warnings too.
func admit(object runtime.Object) error {
	version := object.GetObjectKind().GroupVersionKind().GroupVersion()
	internal, err := legacyscheme.Scheme.ConvertToVersion(object, schema.GroupVersion{Group: version.Group, Version: runtime.APIVersionInternal})
	if err != nil {
		return err
	}
	access, err := meta.Accessor(internal)
	if err != nil {
		return err
	}
	ctx := request.WithNamespace(context.Background(), access.GetNamespace())
	ctx = request.WithRequestInfo(ctx, &request.RequestInfo{IsResourceRequest: true, Verb: "create", Namespace: access.GetNamespace(),
		APIGroup: version.Group, APIVersion: version.Version})
	var strategy rest.RESTCreateStrategy
	switch kind := object.GetObjectKind().GroupVersionKind().Kind; kind {
	case "DaemonSet":
		strategy = daemonset.Strategy
	case "ClusterRole":
		strategy = clusterrole.Strategy
	case "ClusterRoleBinding":
		strategy = clusterrolebinding.Strategy
	case "NetworkPolicy":
		strategy = networkpolicy.Strategy
	case "ResourceQuota":
		strategy = resourcequota.Strategy
	// The strategies of these three link six hundred packages more.
	case "Namespace":
		return problems(corevalidation.ValidateNamespace(internal.(*core.Namespace)))
	case "ServiceAccount":
		return problems(corevalidation.ValidateServiceAccount(internal.(*core.ServiceAccount)))
	case "ConfigMap":
		return problems(corevalidation.ValidateConfigMap(internal.(*core.ConfigMap)))
	default:
		return fmt.Errorf("nothing here checks a %s", kind)
	}
	rest.FillObjectMetaSystemFields(access)
	if err := rest.BeforeCreate(strategy, ctx, internal); err != nil {
		return err
	}
	if warnings := strategy.WarningsOnCreate(ctx, internal); len(warnings) > 0 {
		return errors.New("warned: " + strings.Join(warnings, "; "))
	}
	return nil
}

func problems(list field.ErrorList) error {
	if len(list) == 0 {
		return nil
	}
	return list.ToAggregate()
}

// install is what one set of manifests creates.
type install struct {
	objects   []runtime.Object
	namespace *corev1.Namespace
	account   *corev1.ServiceAccount
	role      *rbacv1.ClusterRole
	binding   *rbacv1.ClusterRoleBinding
	config    *corev1.ConfigMap
	daemonSet *appsv1.DaemonSet
}

// load reads what must be there once, and admits all.
func load(text string) (*install, error) {
	objects, err := decode(text)
	if err != nil {
		return nil, err
	}
	in := &install{objects: objects}
	for _, object := range objects {
		if err := admit(object); err != nil {
			return nil, fmt.Errorf("%s: %w", object.GetObjectKind().GroupVersionKind().Kind, err)
		}
		switch o := object.(type) {
		case *corev1.Namespace:
			in.namespace = o
		case *corev1.ServiceAccount:
			in.account = o
		case *rbacv1.ClusterRole:
			in.role = o
		case *rbacv1.ClusterRoleBinding:
			in.binding = o
		case *corev1.ConfigMap:
			in.config = o
		case *appsv1.DaemonSet:
			in.daemonSet = o
		}
	}
	if in.namespace == nil || in.account == nil || in.role == nil || in.binding == nil || in.config == nil || in.daemonSet == nil ||
		len(in.daemonSet.Spec.Template.Spec.Containers) != 1 {
		return nil, errors.New("want a Namespace, ServiceAccount, ClusterRole, ClusterRoleBinding, ConfigMap and a DaemonSet of one container")
	}
	return in, nil
}

// loadShipped is load of deploy/daemonset.yaml.
func loadShipped(t *testing.T) *install {
	t.Helper()
	in, err := load(shippedText(t))
	if err != nil {
		t.Fatalf("daemonset.yaml: %v", err)
	}
	return in
}

func (in *install) pod() *corev1.PodSpec         { return &in.daemonSet.Spec.Template.Spec }
func (in *install) container() *corev1.Container { return &in.pod().Containers[0] }
