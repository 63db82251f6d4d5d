package collector

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// tier names the files of one tier, and what else must fit together.
type tier struct {
	manifest, config, service string
	variants                  []string // further files that may be config
}

func gatewayTier() tier {
	return tier{manifest: "gateway-workload.yaml", config: "gateway.yaml", service: "weft-gateway"}
}

func samplerTier() tier {
	return tier{
		manifest: "sampler-workload.yaml", config: "sampler.yaml", service: "weft-samplers",
		variants: []string{"sampler-counted.yaml"},
	}
}

func tiersShipped() []tier { return []tier{gatewayTier(), samplerTier()} }

// manifest is what Kubernetes reads in a tier's file.
type manifest struct {
	service     corev1.Service
	statefulSet appsv1.StatefulSet // or empty
	pod         corev1.PodSpec
	container   corev1.Container
}

// load reads a tier's manifest with Kubernetes' own types, which know no
// misspelt field.
func (x tier) load(t *testing.T) manifest {
	t.Helper()
	var m manifest
	var deployment appsv1.Deployment
	for document := range strings.SplitSeq(read(t, x.manifest), "\n---\n") {
		var what metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(document), &what); err != nil {
			t.Fatalf("%s: %v", x.manifest, err)
		}
		var into any
		switch what.APIVersion + " " + what.Kind {
		case "v1 Service":
			into = &m.service
		case "apps/v1 Deployment":
			into = &deployment
		case "apps/v1 StatefulSet":
			into = &m.statefulSet
		default:
			t.Fatalf("%s: what is a %s %s?", x.manifest, what.APIVersion, what.Kind)
		}
		if err := yaml.UnmarshalStrict([]byte(document), into); err != nil {
			t.Fatalf("%s: %s: %v", x.manifest, what.Kind, err)
		}
	}
	m.pod = deployment.Spec.Template.Spec
	labels := deployment.Spec.Template.Labels
	if m.statefulSet.Name != "" {
		m.pod, labels = m.statefulSet.Spec.Template.Spec, m.statefulSet.Spec.Template.Labels
	}
	if m.service.Name != x.service || len(m.pod.Containers) != 1 {
		t.Fatalf("%s: want the Service %s and pods of one container", x.manifest, x.service)
	}
	for name, value := range m.service.Spec.Selector {
		if labels[name] != value {
			t.Errorf("%s: the Service selects %s=%s, the pods have %q", x.manifest, name, value, labels[name])
		}
	}
	m.container = m.pod.Containers[0]
	return m
}

// read returns a shipped file.
func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(shipped, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestManifestValidates: the real Collector takes each file with exactly the
// variables that its manifest sets.
func TestManifestValidates(t *testing.T) {
	for _, x := range tiersShipped() {
		m := x.load(t)
		for _, config := range append([]string{x.config}, x.variants...) {
			t.Run(config, func(t *testing.T) {
				validate := func(env ...string) ([]byte, error) {
					cmd := exec.Command(program(t), "validate", "--config", filepath.Join(shipped, config))
					cmd.Env = append([]string{}, env...) // nothing of this process's
					return cmd.CombinedOutput()
				}
				var env []string
				for _, v := range m.container.Env {
					env = append(env, v.Name+"="+v.Value)
				}
				if out, err := validate(env...); err != nil {
					t.Errorf("validate %s: %v\n%s", config, err, out)
				}
				// It can say no.
				if out, err := validate("SAMPLERS={}", "BACKEND="); err == nil {
					t.Errorf("validate %s takes an empty address:\n%s", config, out)
				}
			})
		}
	}
}

// TestManifestConfig: the ConfigMap is made of the tested file, is mounted where
// the program looks for it, and every variable without a default is set.
func TestManifestConfig(t *testing.T) {
	var kustomization struct {
		Resources          []string
		ConfigMapGenerator []struct {
			Name  string
			Files []string
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "kustomization.yaml")), &kustomization); err != nil {
		t.Fatalf("kustomization.yaml: %v", err)
	}
	variable := regexp.MustCompile(`\$\{env:(\w+)(:-[^}]*)?\}`)
	for _, x := range tiersShipped() {
		t.Run(x.config, func(t *testing.T) {
			if !slices.Contains(kustomization.Resources, x.manifest) {
				t.Errorf("kustomization.yaml: %s is not a resource", x.manifest)
			}
			m := x.load(t)
			mounts, volumes := m.container.VolumeMounts, m.pod.Volumes
			if len(mounts) != 1 || len(volumes) != 1 || mounts[0].Name != volumes[0].Name || volumes[0].ConfigMap == nil {
				t.Fatalf("%s: want one volume, a ConfigMap, mounted", x.manifest)
			}
			if want := []string{"--config=" + mounts[0].MountPath + "/" + x.config}; !slices.Equal(m.container.Args, want) {
				t.Errorf("%s: args %v, want %v", x.manifest, m.container.Args, want)
			}
			found := false
			for _, g := range kustomization.ConfigMapGenerator {
				found = found || g.Name == volumes[0].ConfigMap.Name && slices.Equal(g.Files, []string{x.config})
			}
			if !found {
				t.Errorf("kustomization.yaml: no ConfigMap %s of %s alone", volumes[0].ConfigMap.Name, x.config)
			}
			for _, config := range append([]string{x.config}, x.variants...) {
				needed := make(map[string]bool)
				for _, match := range variable.FindAllStringSubmatch(read(t, config), -1) {
					needed[match[1]] = needed[match[1]] || match[2] == ""
				}
				for _, v := range m.container.Env {
					if _, used := needed[v.Name]; !used && v.Name != "GOMEMLIMIT" {
						t.Errorf("%s: %s is set, %s does not use it", x.manifest, v.Name, config)
					}
					delete(needed, v.Name)
				}
				for name, must := range needed {
					if must {
						t.Errorf("%s: %s is not set, %s has no default for it", x.manifest, name, config)
					}
				}
			}
		})
	}
}

// TestManifestWorkloads: no root, no token, bounded memory, and probes, ports and
// names that exist.
func TestManifestWorkloads(t *testing.T) {
	for _, x := range tiersShipped() {
		t.Run(x.manifest, func(t *testing.T) {
			m := x.load(t)
			c := m.container
			if s := m.pod.SecurityContext; s == nil || !is(s.RunAsNonRoot, true) || s.RunAsUser == nil || *s.RunAsUser == 0 {
				t.Error("the pod may run as root")
			}
			if !is(m.pod.AutomountServiceAccountToken, false) {
				t.Error("the pod gets a token that it does not need")
			}
			if s := c.SecurityContext; s == nil || !is(s.AllowPrivilegeEscalation, false) || !is(s.ReadOnlyRootFilesystem, true) ||
				s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL") {
				t.Errorf("the container may more than it needs: %v", s)
			}
			// The share that memory_limiter allows is of this limit; Go has to see
			// less, to collect garbage before anything is refused.
			limit := c.Resources.Limits.Memory().Value()
			if limit == 0 || c.Resources.Requests.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
				t.Errorf("resources are not bounded: %v", c.Resources)
			}
			for _, v := range c.Env {
				if v.Name != "GOMEMLIMIT" {
					continue
				}
				soft, err := resource.ParseQuantity(strings.TrimSuffix(v.Value, "B"))
				if err != nil || soft.Value() > limit*8/10 {
					t.Errorf("GOMEMLIMIT is %s (%v), memory_limiter begins at %d", v.Value, err, limit*8/10)
				}
			}
			ports := make(map[string]int32)
			for _, p := range c.Ports {
				ports[p.Name] = p.ContainerPort
				if !regexp.MustCompile(fmt.Sprintf(`:-(0\.0\.0\.0:)?%d\}`, p.ContainerPort)).MatchString(read(t, x.config)) {
					t.Errorf("port %s: %s does not listen on %d", p.Name, x.config, p.ContainerPort)
				}
			}
			for _, p := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
				if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != "/" || ports[p.HTTPGet.Port.StrVal] != 13133 {
					t.Errorf("probe %v does not ask the health check", p)
				}
			}
			for _, p := range m.service.Spec.Ports {
				if ports[p.TargetPort.StrVal] != p.Port {
					t.Errorf("Service %s: port %d leads to %q, which is %d", x.service, p.Port, p.TargetPort.StrVal, ports[p.TargetPort.StrVal])
				}
			}
		})
	}
}

// is says that a field is set, and to that.
func is(field *bool, want bool) bool { return field != nil && *field == want }

// TestManifestResolver: what the gateways look up is the samplers' headless
// Service.
func TestManifestResolver(t *testing.T) {
	samplers := samplerTier().load(t)
	var resolver struct {
		DNS struct{ Hostname, Port string }
	}
	for _, v := range gatewayTier().load(t).container.Env {
		if v.Name != "SAMPLERS" {
			continue
		}
		if err := yaml.Unmarshal([]byte(v.Value), &resolver); err != nil {
			t.Fatalf("SAMPLERS: %v", err)
		}
	}
	service := samplers.service
	if resolver.DNS.Hostname != service.Name || resolver.DNS.Port != fmt.Sprint(service.Spec.Ports[0].Port) {
		t.Errorf("SAMPLERS is %+v, the Service is %s, port %d", resolver.DNS, service.Name, service.Spec.Ports[0].Port)
	}
	if service.Spec.ClusterIP != corev1.ClusterIPNone {
		t.Errorf("Service %s has one address for all samplers", service.Name)
	}
	if samplers.statefulSet.Spec.ServiceName != service.Name {
		t.Errorf("the StatefulSet's Service is %q, want %q", samplers.statefulSet.Spec.ServiceName, service.Name)
	}
}

// TestManifestVersion: the image is the version that these tests build.
func TestManifestVersion(t *testing.T) {
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`processor/tailsamplingprocessor v([0-9.]+)`).FindSubmatch(text)
	if match == nil {
		t.Fatal("go.mod: no tailsamplingprocessor")
	}
	for _, x := range tiersShipped() {
		if image := x.load(t).container.Image; !strings.HasSuffix(image, "/opentelemetry-collector-contrib:"+string(match[1])) {
			t.Errorf("%s: image %s, want contrib %s", x.manifest, image, match[1])
		}
	}
}
