package main

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"weft/export"
	"weft/internal/selfstats"
	"weft/internal/selfstats/metricdoc"
	"weft/kube/kubetest"
)

// scrape reads what is served at address, as Prometheus does.
func scrape(t *testing.T, address string) (map[string]*dto.MetricFamily, string) {
	t.Helper()
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", resp.Status, err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(families, func(name string, _ *dto.MetricFamily) bool { return !strings.HasPrefix(name, "weft_") })
	return families, string(text)
}

// freeAddress is one that nobody listened on a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// readyAt waits until the agent at address is.
func readyAt(t *testing.T, address string) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + address + "/readyz")
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
	}
	t.Fatal("the agent never became ready")
}

// valuesOf are the label values of every sample, as metricdoc has them.
func valuesOf(f *dto.MetricFamily, labels []string) []string {
	var out []string
	for _, m := range f.GetMetric() {
		values := make([]string, len(labels))
		for _, l := range m.GetLabel() {
			if at := slices.Index(labels, l.GetName()); at >= 0 {
				values[at] = l.GetValue()
			}
		}
		out = append(out, strings.Join(values, ","))
	}
	slices.Sort(out)
	return out
}

func labelsOf(f *dto.MetricFamily) []string {
	var out []string
	for _, l := range f.GetMetric()[0].GetLabel() {
		out = append(out, l.GetName())
	}
	slices.Sort(out)
	return out
}

// TestMetricsDocumented holds docs/metrics.md to an agent that does all there
// is to do, in both directions.
func TestMetricsDocumented(t *testing.T) {
	needRoot(t)
	documented, err := metricdoc.Read("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	server := kubetest.New(t)
	address := freeAddress(t)
	a := runChild(t, fmt.Sprintf(`
targets: [{pid: %d}]
kubernetes: {kubeconfig: %q, node: node-a}
telemetry: {listen: %q, bpf_stats: true}
sampling: {tail: {errors: true}}
export: {otlp: {endpoint: "http://%s"}}
`, os.Getpid(), server.Kubeconfig(), address, freeAddress(t)))
	readyAt(t, address)
	served, text := scrape(t, address)
	a.stop()

	// `weft exec` has exporters of its own.
	stats := selfstats.New()
	convert, err := export.NewConverter(export.ConverterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sinks := export.Fanout{export.NewTree(io.Discard, export.TreeOptions{}, stats), export.NewJSON(io.Discard, convert, stats)}
	second, err := stats.Server(t.Context(), "127.0.0.1:0", nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	also, _ := scrape(t, second.Addr())
	if err := sinks.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for name, family := range also {
		if served[name] == nil {
			served[name] = family
			continue
		}
		served[name].Metric = append(served[name].Metric, family.GetMetric()...)
	}

	for name, family := range served {
		m := documented[name]
		if m == nil {
			t.Errorf("%s%v is served and not documented: %s", name, labelsOf(family), family.GetHelp())
			continue
		}
		if kind := strings.ToLower(family.GetType().String()); kind != m.Type {
			t.Errorf("%s: a %s, documented as a %s", name, kind, m.Type)
		}
		if labels := labelsOf(family); !slices.Equal(labels, slices.Sorted(slices.Values(m.Labels))) {
			t.Errorf("%s: labels %v, documented are %v", name, labels, m.Labels)
		}
		if m.Values == nil {
			continue
		}
		var want []string
		for _, v := range m.Values {
			want = append(want, strings.Join(v, ","))
		}
		slices.Sort(want)
		if have := slices.Compact(valuesOf(family, m.Labels)); !slices.Equal(have, want) {
			t.Errorf("%s%v:\nserved     %v\ndocumented %v", name, m.Labels, have, want)
		}
	}
	for name := range documented {
		if served[name] == nil {
			t.Errorf("%s is documented and not served", name)
		}
	}
	for name, want := range map[string]float64{"weft_ready": 1, "weft_processes_selected": 1, "weft_build_info": 1, "weft_capture_info": 1} {
		if family := served[name]; family == nil || family.GetMetric()[0].GetGauge().GetValue() != want {
			t.Errorf("%s: %v, want %v", name, family, want)
		}
	}
	lint(t, text)
}

// TestRunTimeNotAllowed asks for what takes CAP_SYS_ADMIN without it: said,
// counted, and traced all the same.
func TestRunTimeNotAllowed(t *testing.T) {
	needRoot(t)
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must run this test; it needs setpriv: apt-get install util-linux")
		}
		t.Skip("needs setpriv: apt-get install util-linux")
	}
	address := freeAddress(t)
	a := runChild(t, fmt.Sprintf("targets: [{pid: %d}]\ntelemetry: {listen: %q, bpf_stats: true}\n", os.Getpid(), address),
		setpriv, "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
	a.wait("level=WARN", "give weft CAP_SYS_ADMIN, or set telemetry.bpf_stats to false", "operation not permitted")
	a.wait(`msg="process selected"`, fmt.Sprintf("pid=%d ", os.Getpid()))
	served, _ := scrape(t, address)
	failures := map[string]float64{}
	for _, m := range served["weft_attach_failures_total"].GetMetric() {
		if l := m.GetLabel(); l[0].GetValue() == "run_time" {
			failures[l[1].GetValue()] = m.GetCounter().GetValue()
		}
	}
	if want := map[string]float64{"permission": 1, "unsupported": 0, "other": 0}; !maps.Equal(failures, want) {
		t.Errorf("weft_attach_failures_total of run_time: %v, want %v", failures, want)
	}
}

// lint asks promtool about names, units and help texts.
func lint(t *testing.T, text string) {
	t.Helper()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Log("names not linted: no promtool; apt-get install prometheus")
		return
	}
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, said)
	}
}
