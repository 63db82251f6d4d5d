package config

import (
	"encoding/json"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite golden files")

// load parses text as the file weft.yaml.
func load(t *testing.T, text string, environ ...string) *Config {
	t.Helper()
	cfg, err := Parse("weft.yaml", []byte(text), environ)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return cfg
}

func TestNothingSetIsDefault(t *testing.T) {
	for name, text := range map[string]string{
		"empty":       "",
		"comments":    "# nothing\n",
		"null":        "null\n",
		"empty keys":  "targets:\nlog:\nsampling:\n  tail:\n  ratio:\n",
		"empty tail":  "sampling: {tail: {errors: null, ratio: }}\n",
		"as defaults": "propagation: {trust: [\"::/0\", \"0.0.0.0/0\"], egress: []}\nbaggage: {attributes: [], set: {}}\nsampling: {max_per_second: 0, health_checks: drop, rules: [], tail: {}}\n",
		"document":    "---\nlog: {level: info}\n...\n",
	} {
		got := load(t, text, "PATH=/bin", "OTEL_SERVICE_NAME=x", "WEFT_LOG_LEVEL=", "WEFT_TARGETS=", "WEFT_CAPTURE= ",
			"OTEL_TRACES_SAMPLER=", "OTEL_TRACES_SAMPLER_ARG=0.5")
		want := Default()
		want.file = "weft.yaml"
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

func golden(t *testing.T, cfg *Config, path string) {
	t.Helper()
	got, err := json.MarshalIndent(cfg, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("differs from %s (rewrite with -update):\n%s", path, got)
	}
}

func TestGoldenDefault(t *testing.T) { golden(t, Default(), "testdata/default.json") }

func TestGoldenFull(t *testing.T) {
	cfg, err := Load("testdata/full.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, cfg, "testdata/full.json")
}

// The variables must be able to say all that the file can.
func TestEnvSaysWhatFileSays(t *testing.T) {
	cfg, err := Load("", []string{
		`WEFT_TARGETS=[{name: cart, exe: "/usr/bin/python3*", args: "*cart.py*", port: "8080, 9000-9010", pid: 4242, cgroup: "/kubepods*", k8s: {labels: {"app.kubernetes.io/part-of": "[a-s]hop", tier: web}, container: app, namespace: shop, deployment: "cart*"}}, {port: 22, exclude: true}]`,
		"WEFT_CAPTURE=kprobe",
		"WEFT_PROPAGATION_INJECT=traceparent, baggage",
		"WEFT_PROPAGATION_TRUST=10.0.0.0/8, fd00::/8",
		`WEFT_PROPAGATION_EGRESS=[{cidr: 10.0.0.0/8}, {cidr: 0.0.0.0/0, ports: "443,8000-8100", inject: [traceparent, baggage], baggage_keys: [region, tenant_id]}, {cidr: "::/0", inject: []}]`,
		"WEFT_BAGGAGE_ATTRIBUTES=tenant_id, user_id",
		"WEFT_BAGGAGE_SET={tenant_id: {header: x-tenant}, user_id: {header: X-USER-ID}}",
		"WEFT_SAMPLING_HEAD=traceidratio",
		"WEFT_SAMPLING_RATIO=0.25",
		"WEFT_SAMPLING_MAX_PER_SECOND=1e2",
		"WEFT_SAMPLING_HEALTH_CHECKS=keep",
		`WEFT_SAMPLING_RULES=[{service: "cart*", method: GET, path: /static/, ratio: 0.01}, {path: /checkout, ratio: 1}]`,
		"WEFT_SAMPLING_TAIL={errors: false, slower_than: 0.5s, slower_quantile: 0.99, rare_per_minute: 1, ratio: 0.2, wait: 2500ms, max_spans: 1000}",
		"WEFT_EXPORT_OTLP_ENDPOINT=https://collector.example:4318/prefix",
		"WEFT_EXPORT_OTLP_PROTOCOL=http/protobuf",
		"WEFT_KUBERNETES_METADATA=off",
		"WEFT_KUBERNETES_KUBECONFIG=/etc/kubernetes/kubelet.conf",
		"WEFT_KUBERNETES_NODE=node-a",
		"WEFT_AGENT_BACKGROUND=false",
		"WEFT_TELEMETRY_LISTEN=:9999",
		"WEFT_TELEMETRY_BPF_STATS=true",
		"WEFT_LOG_LEVEL=debug",
		"WEFT_LOG_FORMAT=json",
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, cfg, "testdata/full.json")
}

func TestEnvWins(t *testing.T) {
	cfg := load(t, "log: {level: warn, format: json}\ntargets: [{pid: 1}]\n",
		"WEFT_LOG_LEVEL=error", "WEFT_PROPAGATION_INJECT=", "WEFT_TARGETS=[{pid: 2}, {pid: 3}]", "WEFT_TELEMETRY_LISTEN=off")
	if cfg.Log.Level != slog.LevelError || cfg.Log.Format != FormatJSON {
		t.Errorf("log = %+v", cfg.Log)
	}
	if len(cfg.Propagation.Inject) != 0 || cfg.Propagation.Injects(HeaderTraceparent) {
		t.Errorf("inject = %v, want none", cfg.Propagation.Inject)
	}
	if len(cfg.Targets) != 2 || cfg.Targets[0].PID != 2 || cfg.Targets[0].Where() != "WEFT_TARGETS" {
		t.Errorf("targets = %v", cfg.Targets)
	}
	if cfg.Telemetry.Listen != "" {
		t.Errorf("listen = %q, want none", cfg.Telemetry.Listen)
	}
}

func TestConfigVariableNamesFile(t *testing.T) {
	dir := t.TempDir()
	byVariable, byFlag := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	for path, text := range map[string]string{byVariable: "capture: kprobe", byFlag: "capture: fentry"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	environ := []string{"WEFT_CONFIG=" + byVariable}
	for path, want := range map[string]Capture{"": CaptureKprobe, byFlag: CaptureFentry} {
		cfg, err := Load(path, environ)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Capture != want {
			t.Errorf("Load(%q): capture %q, want %q", path, cfg.Capture, want)
		}
	}
	if _, err := Load(filepath.Join(dir, "none.yaml"), nil); err == nil || !strings.Contains(err.Error(), "none.yaml: no such file") {
		t.Errorf("missing file: %v", err)
	}
}

// A Service called weft must not keep the agent from starting in its namespace.
func TestForeignVariablesPassedOver(t *testing.T) {
	load(t, "", "WEFT_SERVICE_HOST=10.0.0.1", "WEFT_SERVICE_PORT=80", "WEFT_SERVICE_PORT_METRICS=9464",
		"WEFT_PORT=tcp://10.0.0.1:80", "WEFT_PORT_80_TCP=tcp://10.0.0.1:80", "WEFT_PORT_80_TCP_ADDR=10.0.0.1",
		"WEFT_AGENT_SERVICE_HOST=10.0.0.1", "WEFT_AGENT_PORT_80_TCP_PROTO=tcp", "WEFT_BIN=/bin/weft", "WEFT_VM_CACHE=/tmp")
}

func TestRequireTargets(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "weft.yaml: no targets, so",
		"targets: []":                        "weft.yaml: no targets, so",
		"targets: [{pid: 1, exclude: true}]": "weft.yaml: every target is an exclude, so",
		"targets: [{pid: 1}]":                "",
	} {
		err := load(t, text).RequireTargets()
		switch {
		case want == "" && err != nil:
			t.Errorf("%q: %v", text, err)
		case want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)):
			t.Errorf("%q: %v, want %s…", text, err, want)
		case err != nil && strings.ContainsRune(err.Error(), '\n'):
			t.Errorf("%q: more than one line: %v", text, err)
		}
	}
	// The example it shows must itself be right.
	err := Default().RequireTargets().Error()
	_, example, _ := strings.Cut(err, "example  ")
	example, _, _ = strings.Cut(example, "  or ")
	if err := load(t, example).RequireTargets(); err != nil {
		t.Errorf("example %q: %v", example, err)
	}
	_, variable, _ := strings.Cut(err, "WEFT_TARGETS='")
	if err := load(t, "", "WEFT_TARGETS="+strings.TrimSuffix(variable, "'")).RequireTargets(); err != nil {
		t.Errorf("variable %q: %v", variable, err)
	}
}

// The commented example file must load, name every key, and state defaults.
func TestExampleFile(t *testing.T) {
	const path = "../../deploy/weft.yaml"
	cfg, err := Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.RequireTargets(); err != nil {
		t.Error(err)
	}
	want := Default()
	want.file, want.Targets = cfg.file, cfg.Targets
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("example does not state the defaults: %+v, want %+v", cfg, want)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys() {
		for _, part := range strings.Split(k.path, ".") {
			if !strings.Contains(string(text), part+":") {
				t.Errorf("%s does not mention %s", path, k.path)
			}
		}
	}
}

// The examples that the documentation shows must load.
func TestDocumentedExamples(t *testing.T) {
	const path = "../../docs/security.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```yaml\n")[1:]
	for _, block := range blocks {
		example, _, _ := strings.Cut(block, "```")
		if _, err := Parse(path, []byte(example), nil); err != nil {
			t.Errorf("%v in:\n%s", err, example)
		}
	}
	if len(blocks) < 2 {
		t.Errorf("%d examples in %s", len(blocks), path)
	}
}

func TestSampler(t *testing.T) {
	for s, want := range map[Sampler]struct {
		ratio  float64
		parent bool
	}{
		SamplerAlwaysOn: {1, false}, SamplerAlwaysOff: {0, false}, SamplerTraceIDRatio: {.3, false},
		SamplerParentBasedAlwaysOn: {1, true}, SamplerParentBasedAlwaysOff: {0, true}, SamplerParentBasedTraceIDRatio: {.3, true},
	} {
		if s.RootRatio(.3) != want.ratio || s.ParentBased() != want.parent {
			t.Errorf("%s: ratio %v, parent-based %v", s, s.RootRatio(.3), s.ParentBased())
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, path := range []string{"testdata/full.yaml", "../../deploy/weft.yaml"} {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("a: &x {a: *x}\n<<: *x\n"))
	f.Add([]byte("targets: &x [*x]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := Parse("weft.yaml", text, nil)
		if err == nil {
			if cfg == nil {
				t.Fatal("neither configuration nor error")
			}
			return
		}
		for _, line := range strings.Split(err.Error(), "\n") {
			if !strings.HasPrefix(line, "weft.yaml:") {
				t.Errorf("line without its place: %q", line)
			}
		}
	})
}
