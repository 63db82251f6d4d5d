package manifests

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// TestAdmitted: the API server takes every object of the file, without a warning.
func TestAdmitted(t *testing.T) {
	in := loadShipped(t)
	if len(in.objects) != 8 {
		t.Errorf("%d objects, want 8", len(in.objects))
	}
	for _, object := range in.objects {
		t.Log(object.GetObjectKind().GroupVersionKind())
	}
}

// TestRefused breaks the file in the ways that people do; each must be noticed
// where it was done.
func TestRefused(t *testing.T) {
	whole := shippedText(t)
	for name, c := range map[string]struct{ old, new, want string }{
		"misspelt key":              {"      hostPID: true", "      hostPid: true", `unknown field "spec.template.spec.hostPid"`},
		"misspelt key of a list":    {"periodSeconds: 2\n", "periodSecond: 2\n", `unknown field "spec.template.spec.containers[0].startupProbe.periodSecond"`},
		"key twice":                 {"      hostPID: true\n", "      hostPID: true\n      hostPID: true\n", `key "hostPID" already set`},
		"unknown capability field":  {"drop: [ALL]", "dropp: [ALL]", "unknown field \"spec.template.spec.containers[0].securityContext.capabilities.dropp\""},
		"wrong type":                {"hostPID: true", "hostPID: 1", "cannot unmarshal number"},
		"missing selector label":    {"      labels: {app.kubernetes.io/name: weft}\n      annotations", "      labels: {app: weft}\n      annotations", "`selector` does not match template `labels`"},
		"bad quantity":              {"memory: 384Mi", "memory: 384MiB", "quantities must match"},
		"request above limit":       {"memory: 128Mi", "memory: 1Gi", "must be less than or equal to memory limit"},
		"surge and unavailable":     {"{maxSurge: 1, maxUnavailable: 0}", "{maxSurge: 1, maxUnavailable: 1}", "may not be set when"},
		"seccomp without a file":    {"{type: RuntimeDefault}", "{type: Localhost}", "must be set when seccomp type is Localhost"},
		"no such profile":           {"{type: RuntimeDefault}", "{type: runtime/default}", "Unsupported value"},
		"no such port":              {"path: /readyz, port: telemetry", "path: /readyz, port: telemetry_port", "must contain only alpha-numeric"},
		"no such volume":            {"name: tracing, mountPath", "name: trace, mountPath", "Not found"},
		"privileged without gain":   {"privileged: false", "privileged: true", "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"},
		"no such field of the pod":  {"fieldPath: spec.nodeName", "fieldPath: spec.node", "error converting fieldPath"},
		"role without verbs":        {"    verbs: [list, watch]\n", "", "verbs must contain at least one value"},
		"binding to a role unnamed": {"  kind: ClusterRole\n  name: weft\nsubjects", "  kind: ClusterRole\nsubjects", "roleRef.name: Required value"},
		"subject without namespace": {"    name: weft\n    namespace: weft\n---", "    name: weft\n---", "subjects[0].namespace: Required value"},
		"bad label":                 {"{app.kubernetes.io/name: weft}\ndata", "{app.kubernetes.io/name/x: weft}\ndata", "Invalid value"},
		"no such scope":             {"scopeName: PriorityClass", "scopeName: Priority", "unsupported scope"},
		"no such policy type":       {"policyTypes: [Ingress]", "policyTypes: [Inbound]", "Unsupported value"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Count(whole, c.old) == 0 {
				t.Fatalf("daemonset.yaml has no %q to break", c.old)
			}
			_, err := load(strings.Replace(whole, c.old, c.new, 1))
			if err == nil {
				t.Fatalf("taken with %q", c.new)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("refused with %q, want %q", err, c.want)
			}
		})
	}
}

// TestPodSecurity: the namespace has the lowest level at which the pod is let in,
// and what keeps it from the next one is what docs/kubernetes.md explains.
func TestPodSecurity(t *testing.T) {
	in := loadShipped(t)
	template := in.daemonSet.Spec.Template
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(level api.Level, pod *corev1.PodSpec) map[string]string {
		out := map[string]string{}
		for _, r := range evaluator.EvaluatePod(api.LevelVersion{Level: level, Version: api.LatestVersion()}, &template.ObjectMeta, pod) {
			if !r.Allowed {
				out[r.ForbiddenReason] = r.ForbiddenDetail
			}
		}
		return out
	}
	for _, mode := range []string{api.EnforceLevelLabel, api.AuditLevelLabel, api.WarnLevelLabel} {
		level, err := api.ParseLevel(in.namespace.Labels[mode])
		if err != nil {
			t.Errorf("%s: %v", mode, err)
		} else if why := refused(level, in.pod()); len(why) > 0 {
			t.Errorf("%s is %s, which refuses the pod: %v", mode, level, why)
		}
	}
	why := refused(api.LevelBaseline, in.pod())
	for _, want := range []string{"non-default capabilities", "host namespaces", "hostPath volumes", "forbidden AppArmor profile", "seLinuxOptions"} {
		if _, ok := why[want]; !ok {
			t.Errorf("baseline does not refuse %s: lower the namespace's level", want)
		}
		delete(why, want)
	}
	for reason, detail := range why {
		t.Errorf("baseline refuses more than docs/kubernetes.md says: %s: %s", reason, detail)
	}
	for _, name := range []string{"host namespaces", "hostPath volumes", "non-default capabilities", "AppArmor", "SELinux"} {
		if text := read(t, "../../docs/kubernetes.md"); !strings.Contains(text, name) {
			t.Errorf("docs/kubernetes.md does not say why %q is needed", name)
		}
	}
}
