package manifests

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// node is where the pod made by hand runs.
const node = "node-1"

// server is a kube-apiserver of this test, with etcd behind it.
type server struct {
	address string
	client  dynamic.Interface // may everything
}

// startServer runs etcd and the kube-apiserver that `make apiserver` builds.
func startServer(t *testing.T) *server {
	t.Helper()
	binary := os.Getenv("WEFT_TEST_APISERVER")
	if binary == "" {
		t.Skip("needs a kube-apiserver: make apiserver")
	}
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Skip("needs etcd: apt-get install etcd-server")
	}
	dir := t.TempDir()
	etcd, peer, port := freePort(t), freePort(t), freePort(t)
	start(t, "etcd", "--data-dir", filepath.Join(dir, "etcd"), "--listen-client-urls", "http://127.0.0.1:"+etcd,
		"--advertise-client-urls", "http://127.0.0.1:"+etcd, "--listen-peer-urls", "http://127.0.0.1:"+peer)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	signing := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	for name, text := range map[string][]byte{"sa.key": signing, "tokens.csv": []byte(`admin-token,admin,1,"system:masters"` + "\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start(t, binary, "--etcd-servers=http://127.0.0.1:"+etcd, "--bind-address=127.0.0.1", "--secure-port="+port,
		"--cert-dir="+filepath.Join(dir, "certs"), "--token-auth-file="+filepath.Join(dir, "tokens.csv"), "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+filepath.Join(dir, "sa.key"),
		"--service-account-signing-key-file="+filepath.Join(dir, "sa.key"), "--service-cluster-ip-range=10.96.0.0/16")
	s := &server{address: "https://127.0.0.1:" + port}
	s.client = s.as(t, "admin-token")
	eventually(t, "the API server's own priority classes", func() error {
		_, err := s.client.Resource(schema.GroupVersionResource{Group: "scheduling.k8s.io", Version: "v1", Resource: "priorityclasses"}).
			Get(t.Context(), "system-node-critical", metav1.GetOptions{})
		return err
	})
	return s
}

// as is a client with a token.
func (s *server) as(t *testing.T, token string) dynamic.Interface {
	t.Helper()
	client, err := dynamic.NewForConfig(&rest.Config{Host: s.address, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: 100, Burst: 100})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// start runs a program until the test ends; what it said is shown if that failed.
func start(t *testing.T, name string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // waited for
		cmd.Wait()         //nolint:errcheck // killed
		if said := out.String(); t.Failed() {
			t.Logf("%s ended with:\n%s", name, said[max(0, len(said)-4000):])
		}
	})
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// resource is where objects of a kind are.
func (s *server) resource(kind, namespace string) (dynamic.ResourceInterface, error) {
	where := map[string]schema.GroupVersionResource{
		"Namespace":           corev1.SchemeGroupVersion.WithResource("namespaces"),
		"ServiceAccount":      corev1.SchemeGroupVersion.WithResource("serviceaccounts"),
		"ConfigMap":           corev1.SchemeGroupVersion.WithResource("configmaps"),
		"ResourceQuota":       corev1.SchemeGroupVersion.WithResource("resourcequotas"),
		"Pod":                 corev1.SchemeGroupVersion.WithResource("pods"),
		"ClusterRole":         rbacv1.SchemeGroupVersion.WithResource("clusterroles"),
		"ClusterRoleBinding":  rbacv1.SchemeGroupVersion.WithResource("clusterrolebindings"),
		"DaemonSet":           appsv1.SchemeGroupVersion.WithResource("daemonsets"),
		"NetworkPolicy":       {Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"},
		"SelfSubjectRules":    authorizationv1.SchemeGroupVersion.WithResource("selfsubjectrulesreviews"),
		"ServiceAccountToken": corev1.SchemeGroupVersion.WithResource("serviceaccounts"),
	}
	found, ok := where[kind]
	if !ok {
		return nil, fmt.Errorf("where is a %s?", kind)
	}
	if namespace == "" {
		return s.client.Resource(found), nil
	}
	return s.client.Resource(found).Namespace(namespace), nil
}

// apply is `kubectl apply --server-side --validate=strict` of a file.
func (s *server) apply(ctx context.Context, text string, dryRun bool) error {
	for document := range strings.SplitSeq(text, "\n---\n") {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document+"\n"), &object.Object); err != nil {
			return err
		}
		to, err := s.resource(object.GetKind(), object.GetNamespace())
		if err != nil {
			return err
		}
		body, err := json.Marshal(object.Object)
		if err != nil {
			return err
		}
		force := true
		options := metav1.PatchOptions{FieldManager: "weft-test", Force: &force, FieldValidation: metav1.FieldValidationStrict}
		if dryRun {
			options.DryRun = []string{metav1.DryRunAll}
		}
		if _, err := to.Patch(ctx, object.GetName(), "application/apply-patch+yaml", body, options); err != nil {
			return fmt.Errorf("apply %s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	return nil
}

// create makes an object of a typed one.
func (s *server) create(ctx context.Context, kind, namespace string, from any, into any, subresources ...string) error {
	to, err := s.resource(kind, namespace)
	if err != nil {
		return err
	}
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(from)
	if err != nil {
		return err
	}
	out, err := to.Create(ctx, &unstructured.Unstructured{Object: object}, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}, subresources...)
	if err != nil || into == nil {
		return err
	}
	return runtime.DefaultUnstructuredConverter.FromUnstructured(out.Object, into)
}

// TestServer applies the file to a real API server, makes the pod that a DaemonSet
// controller would, and lets weft ask with the rights that it was given.
func TestServer(t *testing.T) {
	s := startServer(t)
	ctx, whole := t.Context(), shippedText(t)
	first, rest, _ := strings.Cut(whole, "\n---\n")
	if err := s.apply(ctx, whole, true); err == nil || !strings.Contains(err.Error(), `namespaces "weft" not found`) {
		t.Errorf("dry run into an empty cluster: %v, want that the namespace is not there", err)
	}
	for _, step := range []struct {
		text   string
		dryRun bool
	}{{first, true}, {first, false}, {rest, true}, {rest, false}, {whole, false}} {
		if err := s.apply(ctx, step.text, step.dryRun); err != nil {
			t.Fatalf("dry run %v: %v", step.dryRun, err)
		}
	}
	broken := strings.Replace(rest, "hostPID: true", "hostPid: true", 1)
	if err := s.apply(ctx, broken, true); err == nil || !strings.Contains(err.Error(), "hostPid") {
		t.Errorf("a misspelt key: %v", err)
	}
	s.fillQuota(t)
	pod := s.makePod(t)
	if pod.Spec.Priority == nil || *pod.Spec.Priority < 2_000_000_000 {
		t.Errorf("priority %v, want that of what a node needs", pod.Spec.Priority)
	}
	token := s.tokenOf(t, "weft")
	s.testRights(t, token)
	if row := s.doctor(t, token); row.State != "ok" || !strings.Contains(row.Why, "1 pod of node "+node) {
		t.Errorf("weft doctor: %+v", row)
	}
	// One verb less, and weft names it.
	if err := s.apply(ctx, strings.Replace(rest, "verbs: [list, watch]", "verbs: [list]", 1), false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "without the verb watch", func() error {
		if row := s.doctor(t, token); row.State != "missing" || !strings.Contains(row.Why, "may not watch pods") {
			return fmt.Errorf("weft doctor: %+v", row)
		}
		return nil
	})
	// One level of Pod Security less, and the pod is refused.
	if err := s.apply(ctx, strings.ReplaceAll(first, ": privileged", ": baseline"), false); err != nil {
		t.Fatal(err)
	}
	again := podOf(t)
	again.Name = "weft-again"
	if err := s.create(ctx, "Pod", "weft", again, nil); err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
		t.Errorf("a pod below its level: %v", err)
	}
	record(t, pod)
}

// fillQuota does what the quota controller does, without which no pod is let in.
func (s *server) fillQuota(t *testing.T) {
	t.Helper()
	quotas, err := s.resource("ResourceQuota", "weft")
	if err != nil {
		t.Fatal(err)
	}
	quota, err := quotas.Get(t.Context(), "weft-critical", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	quota.Object["status"] = map[string]any{"hard": map[string]any{"pods": "100k"}, "used": map[string]any{"pods": "0"}}
	if _, err := quotas.UpdateStatus(t.Context(), quota, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// podOf is the pod that the DaemonSet's controller makes for a node.
func podOf(t *testing.T) *corev1.Pod {
	t.Helper()
	in := loadShipped(t)
	yes := true
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: *in.daemonSet.Spec.Template.ObjectMeta.DeepCopy(), Spec: *in.pod().DeepCopy()}
	pod.Name, pod.GenerateName, pod.Namespace = "weft-8xk2p", "weft-", in.daemonSet.Namespace
	pod.Labels["controller-revision-hash"], pod.Labels["pod-template-generation"] = "6c9d5b7f4", "1"
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: in.daemonSet.Name,
		UID: "0f5c6f0e-6d54-4b0c-9d2a-5a1d3f6f7a10", Controller: &yes, BlockOwnerDeletion: &yes}}
	pod.Spec.NodeName = node
	return pod
}

// makePod makes it, and reports it running as kubelet does.
func (s *server) makePod(t *testing.T) *corev1.Pod {
	t.Helper()
	made := &corev1.Pod{}
	if err := s.create(t.Context(), "Pod", "weft", podOf(t), made); err != nil {
		t.Fatal(err)
	}
	yes, now := true, metav1.Now().Rfc3339Copy()
	made.Status.Phase, made.Status.StartTime, made.Status.HostIP, made.Status.PodIP = corev1.PodRunning, &now, "10.0.0.11", "10.244.1.7"
	made.Status.HostIPs, made.Status.PodIPs = []corev1.HostIP{{IP: "10.0.0.11"}}, []corev1.PodIP{{IP: "10.244.1.7"}}
	made.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "weft", Image: made.Spec.Containers[0].Image,
		ImageID: "registry.example/weft@sha256:" + strings.Repeat("7d", 32), ContainerID: "containerd://" + strings.Repeat("3e", 32),
		Ready: true, Started: &yes, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}}
	pods, err := s.resource("Pod", "weft")
	if err != nil {
		t.Fatal(err)
	}
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(made)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pods.UpdateStatus(t.Context(), &unstructured.Unstructured{Object: object}, metav1.UpdateOptions{FieldManager: "kubelet"})
	if err != nil {
		t.Fatal(err)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(out.Object, made); err != nil {
		t.Fatal(err)
	}
	return made
}

// tokenOf is what kubelet would put into the pod of a service account.
func (s *server) tokenOf(t *testing.T, account string) string {
	t.Helper()
	request := &authenticationv1.TokenRequest{TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"}, ObjectMeta: metav1.ObjectMeta{Name: account}}
	answer := &authenticationv1.TokenRequest{}
	if err := s.create(t.Context(), "ServiceAccountToken", "weft", request, answer, "token"); err != nil {
		t.Fatal(err)
	}
	return answer.Status.Token
}

// testRights: the service account may list and watch pods, and beyond that only
// what every account may.
func (s *server) testRights(t *testing.T, token string) {
	t.Helper()
	mine := &server{address: s.address, client: s.as(t, token)}
	review := &authorizationv1.SelfSubjectRulesReview{TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SelfSubjectRulesReview"},
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "shop"}}
	eventually(t, "the rights that everybody has", func() error {
		return mine.create(t.Context(), "SelfSubjectRules", "", review, review)
	})
	found := false
	for _, rule := range review.Status.ResourceRules {
		switch {
		case reflect.DeepEqual(rule.Resources, []string{"pods"}) && reflect.DeepEqual(rule.Verbs, []string{"list", "watch"}):
			found = true
		case strings.HasPrefix(rule.Resources[0], "selfsubject"): // of system:basic-user
		default:
			t.Errorf("weft may also %v %v", rule.Verbs, rule.Resources)
		}
	}
	if !found {
		t.Errorf("weft may not list and watch pods: %+v", review.Status.ResourceRules)
	}
}

// doctorRow is a row of `weft doctor --json`.
type doctorRow struct{ Name, State, Why string }

// doctor is the row of `weft doctor` about Kubernetes.
func (s *server) doctor(t *testing.T, token string) doctorRow {
	t.Helper()
	return kubernetesRow(t, kubeconfig(t, s.address, "insecure-skip-tls-verify: true", token))
}

// record writes the pod down for kube's tests, if asked to.
func record(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	path := os.Getenv("WEFT_TEST_RECORD")
	if path == "" {
		return
	}
	text, err := json.MarshalIndent(pod, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
