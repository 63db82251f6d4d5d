package manifests

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kubernetes/pkg/registry/rbac/validation"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"
)

// rights is a server that answers for pods to whom the API server's own RBAC
// lets ask, and notes what was asked.
type rights struct {
	t     *testing.T
	rbac  *rbac.RBACAuthorizer
	user  func(*http.Request) (*authorizer.AttributesRecord, error)
	mu    sync.Mutex
	asked map[string]bool // "list pods"
}

func newRights(t *testing.T, in *install, role *rbacv1.ClusterRole) *rights {
	_, static := validation.NewTestRuleResolver(nil, nil, []*rbacv1.ClusterRole{role}, []*rbacv1.ClusterRoleBinding{in.binding})
	info := &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	account := serviceaccount.UserInfo(in.account.Namespace, in.pod().ServiceAccountName, "")
	return &rights{t: t, rbac: rbac.New(static, static, static, static), asked: map[string]bool{},
		user: func(r *http.Request) (*authorizer.AttributesRecord, error) {
			i, err := info.NewRequestInfo(r)
			if err != nil {
				return nil, err
			}
			return &authorizer.AttributesRecord{User: account, Verb: i.Verb, Namespace: i.Namespace, APIGroup: i.APIGroup, APIVersion: i.APIVersion,
				Resource: i.Resource, Subresource: i.Subresource, Name: i.Name, ResourceRequest: i.IsResourceRequest, Path: i.Path}, nil
		}}
}

func (s *rights) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	asks, err := s.user(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	what := asks.Verb + " " + asks.Resource
	s.mu.Lock()
	s.asked[what] = true
	s.mu.Unlock()
	decision, _, err := s.rbac.Authorize(r.Context(), asks)
	w.Header().Set("Content-Type", "application/json")
	var answer any
	switch {
	case err != nil || decision != authorizer.DecisionAllow:
		w.WriteHeader(http.StatusForbidden)
		answer = metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonForbidden, Code: http.StatusForbidden,
			Message: fmt.Sprintf("pods is forbidden: User %q cannot %s resource %q in API group %q at the cluster scope", asks.User.GetName(), asks.Verb, asks.Resource, asks.APIGroup)}
	case what == "list pods":
		answer = corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, ListMeta: metav1.ListMeta{ResourceVersion: "7"}, Items: []corev1.Pod{*podOf(s.t)}}
	case what == "watch pods":
		w.WriteHeader(http.StatusOK)
		return // that is all for now
	default:
		w.WriteHeader(http.StatusNotFound)
		answer = metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound}
	}
	json.NewEncoder(w).Encode(answer) //nolint:errcheck // the client has left
}

// TestRights: weft asks for each right that the role grants, and for none besides.
func TestRights(t *testing.T) {
	in := loadShipped(t)
	row, asked := ask(t, in, in.role)
	if row.State != "ok" || !strings.Contains(row.Why, "1 pod of node "+node) {
		t.Errorf("weft doctor: %+v", row)
	}
	var granted []string
	for _, rule := range in.role.Rules {
		if !slices.Equal(rule.APIGroups, []string{""}) || len(rule.NonResourceURLs) > 0 {
			t.Errorf("the role grants more than pods: %+v", rule)
		}
		for _, verb := range rule.Verbs {
			for _, what := range rule.Resources {
				granted = append(granted, verb+" "+what)
			}
		}
	}
	slices.Sort(granted)
	if !slices.Equal(asked, granted) {
		t.Errorf("weft asks to %q, the role lets it %q", asked, granted)
	}
	for i, verb := range in.role.Rules[0].Verbs {
		less := in.role.DeepCopy()
		less.Rules[0].Verbs = slices.Delete(less.Rules[0].Verbs, i, i+1)
		row, _ := ask(t, in, less)
		if want := "system:serviceaccount:weft:weft may not " + verb + " pods"; row.State != "missing" || !strings.Contains(row.Why, want) {
			t.Errorf("without %s: %+v, want %q", verb, row, want)
		}
	}
}

// ask runs `weft doctor` with a role, and returns what it says of Kubernetes and
// what it asked the server.
func ask(t *testing.T, in *install, role *rbacv1.ClusterRole) (doctorRow, []string) {
	t.Helper()
	s := newRights(t, in, role)
	server := httptest.NewTLSServer(s)
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	path := kubeconfig(t, server.URL, "certificate-authority: "+ca, "a-token")
	row := kubernetesRow(t, path)
	s.mu.Lock()
	defer s.mu.Unlock()
	var asked []string
	for what := range s.asked {
		asked = append(asked, what)
	}
	slices.Sort(asked)
	return row, asked
}

// kubeconfig is a file that leads to a server.
func kubeconfig(t *testing.T, server, trust, token string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q, %s}}]
users: [{name: weft, user: {token: %s}}]
contexts: [{name: test, context: {cluster: test, user: weft}}]
current-context: test
`, server, trust, token)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
