// Package prometheus tests the alert rules and the dashboard beside them.
package prometheus

import (
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"weft/internal/selfstats"
	"weft/internal/selfstats/metricdoc"
)

const (
	rulesFile     = "rules.yaml"
	rulesTestFile = "rules_test.yaml"
)

type rules struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []rule `yaml:"rules"`
	} `yaml:"groups"`
}

type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func readRules(t *testing.T) rules {
	t.Helper()
	text, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	var r rules
	if err := yaml.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Groups) != 1 || len(r.Groups[0].Rules) == 0 {
		t.Fatalf("want one group with rules: %+v", r)
	}
	return r
}

// standardMetrics are the agent's metrics that are not weft's own, with type.
func standardMetrics(t *testing.T) map[string]string {
	t.Helper()
	server, err := selfstats.New().Server(t.Context(), "127.0.0.1:0", nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + server.Addr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for name, f := range families {
		if !strings.HasPrefix(name, "weft_") {
			out[name] = strings.ToLower(f.GetType().String())
		}
	}
	return out
}

// TestMetricNames needs no promtool: every metric that the dashboard and the
// rules name is documented, and so served (TestMetricsDocumented).
func TestMetricNames(t *testing.T) {
	documented, err := metricdoc.Read("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	standard := standardMetrics(t)
	expressions := readDashboard(t).expressions()
	for _, v := range readDashboard(t).Templating.List {
		expressions["variable "+v.Name] = string(v.Query)
	}
	for _, r := range readRules(t).Groups[0].Rules {
		expressions[r.Alert] = r.Expr
	}
	seen := map[string]bool{}
	for where, expr := range expressions {
		for _, name := range regexp.MustCompile(`\b(weft|process|go)_[a-z0-9_]+\b`).FindAllString(expr, -1) {
			seen[name] = true
			if documented[name] == nil && standard[name] == "" {
				t.Errorf("%s: no metric %s", where, name)
			}
		}
	}
	// What is worth counting is worth showing. Those left out say the same as
	// another, or serve a closer look.
	for name := range documented {
		if !seen[name] && !slices.Contains([]string{"weft_bpf_map_capacity_entries", "weft_bpf_program_memory_bytes",
			"weft_bpf_program_verified_instructions", "weft_bpf_stats_enabled", "weft_go_probes", "weft_kernel_migrates_total", "weft_kernel_requests_total",
			"weft_kernel_sockhash_total", "weft_kernel_written_total", "weft_sockmap_receive", "weft_spans_process_unknown_total",
			"weft_tail_capacity_spans", "weft_tail_early_total", "weft_tail_held_spans", "weft_tail_late_spans_total",
			"weft_tail_routes_displaced_total", "weft_tail_traces_total"}, name) {
			t.Errorf("%s is on no panel and in no rule", name)
		}
	}
}

// anchors are the headings of a page, as links name them.
func anchors(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^##+ (.+)$`).FindAllStringSubmatch(string(text), -1) {
		kept := regexp.MustCompile("[^a-z0-9 -]").ReplaceAllString(strings.ToLower(m[1]), "")
		out = append(out, strings.ReplaceAll(kept, " ", "-"))
	}
	return out
}

// TestPages proves that the pages name metrics, labels and values that there
// are, and that their links lead somewhere.
func TestPages(t *testing.T) {
	documented, err := metricdoc.Read("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	programs := []string{"weft_msg", "weft_sockops", "weft_receive", "weft_state", "weft_fork", "weft_exec", "weft_exit"}
	for _, page := range []string{"../../docs/troubleshooting.md", "../../docs/metrics.md", "../grafana/README.md"} {
		content, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		text := string(content)
		for _, m := range regexp.MustCompile(`\b(weft_[a-z0-9_]*[a-z0-9])(\{[^}]*\})?(_?\*)?`).FindAllStringSubmatch(text, -1) {
			metric := documented[m[1]]
			if m[3] != "" || strings.Contains(text, "^"+m[1]) { // all that begin so
				continue
			}
			if slices.Contains(programs, m[1]) {
				continue
			}
			if metric == nil {
				t.Errorf("%s: no metric %s", page, m[1])
				continue
			}
			for _, pair := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(m[2], -1) {
				at := slices.Index(metric.Labels, pair[1])
				if at < 0 || metric.Values != nil && !slices.ContainsFunc(metric.Values, func(row []string) bool { return row[at] == pair[2] }) {
					t.Errorf("%s: %s has no %s", page, m[1], pair[0])
				}
			}
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#]*)(?:#([^)]+))?\)`).FindAllStringSubmatch(text, -1) {
			target := page
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(page), m[1])
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: a link to %s: %v", page, m[1], err)
			} else if m[2] != "" && !slices.Contains(anchors(t, target), m[2]) {
				t.Errorf("%s: %s has no heading #%s", page, target, m[2])
			}
		}
	}
}

// TestRunbooks proves that every alert links to a part of the page there is.
func TestRunbooks(t *testing.T) {
	const page = "docs/troubleshooting.md"
	have := anchors(t, "../../"+page)
	for _, r := range readRules(t).Groups[0].Rules {
		link := r.Annotations["runbook_url"]
		file, anchor, _ := strings.Cut(link, "#")
		if file != page || !slices.Contains(have, anchor) {
			t.Errorf("%s: %q leads nowhere; %s has %v", r.Alert, link, page, have)
		}
		if r.Annotations["summary"] == "" || r.Labels["severity"] == "" {
			t.Errorf("%s: no summary or no severity", r.Alert)
		}
	}
}

func TestRules(t *testing.T) {
	if said, err := promtool(t, "check", "rules", rulesFile); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	if said, err := promtool(t, "test", "rules", rulesTestFile); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
}

// TestRulesAreTested breaks the alerts, so that they fire never, always, and at
// once: of each alert, the rules' own tests must notice each.
func TestRulesAreTested(t *testing.T) {
	tests, err := os.ReadFile(rulesTestFile)
	if err != nil {
		t.Fatal(err)
	}
	for how, change := range map[string]func(*rule){
		"fires never":   func(r *rule) { r.Expr = "vector(0) > 1" },
		"fires always":  func(r *rule) { r.Expr, r.For = "vector(1)", "" },
		"fires at once": func(r *rule) { r.For = "" },
	} {
		broken := readRules(t)
		var changed []string
		for i := range broken.Groups[0].Rules {
			r := &broken.Groups[0].Rules[i]
			before := *r
			change(r)
			if r.Expr != before.Expr || r.For != before.For {
				changed = append(changed, r.Alert)
			}
		}
		text, err := yaml.Marshal(broken)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		for name, content := range map[string][]byte{"rules.yaml": text, "rules_test.yaml": tests} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		said, err := promtool(t, "test", "rules", filepath.Join(dir, "rules_test.yaml"))
		if err == nil {
			t.Errorf("every alert %s, and no test failed", how)
		}
		for _, alert := range changed {
			if !strings.Contains(said, "alertname: "+alert+",") {
				t.Errorf("%s %s, and no test of it failed", alert, how)
			}
		}
	}
}
