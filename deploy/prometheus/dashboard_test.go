package prometheus

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"weft/internal/selfstats/metricdoc"
)

const dashboardFile = "../grafana/weft.json"

// dashboard is what the tests look at; Grafana's names.
type dashboard struct {
	UID           string  `json:"uid"`
	Title         string  `json:"title"`
	SchemaVersion int     `json:"schemaVersion"`
	Panels        []panel `json:"panels"`
	Annotations   struct {
		List []struct {
			Name   string `json:"name"`
			Target struct {
				Expr string `json:"expr"`
			} `json:"target"`
		} `json:"list"`
	} `json:"annotations"`
	Templating struct {
		List []struct {
			Name  string          `json:"name"`
			Type  string          `json:"type"`
			Query json.RawMessage `json:"query"`
		} `json:"list"`
	} `json:"templating"`
}

type panel struct {
	ID          int        `json:"id"`
	Type        string     `json:"type"`
	Title       string     `json:"title"`
	Description string     `json:"description"`
	Datasource  datasource `json:"datasource"`
	GridPos     struct{ X, Y, W, H int }
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
	Targets []struct {
		RefID        string     `json:"refId"`
		Datasource   datasource `json:"datasource"`
		Expr         string     `json:"expr"`
		LegendFormat string     `json:"legendFormat"`
	} `json:"targets"`
}

type datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// expressions are the dashboard's queries by where they stand, with what
// Grafana puts in for its variables.
func (d dashboard) expressions() map[string]string {
	variables := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*")
	out := map[string]string{}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			out[p.Title+" "+target.RefID] = variables.Replace(target.Expr)
		}
	}
	for _, a := range d.Annotations.List {
		if expr := a.Target.Expr; expr != "" {
			out["annotation "+a.Name] = variables.Replace(expr)
		}
	}
	return out
}

// TestDashboardLayout checks what Grafana would accept and show wrong.
func TestDashboardLayout(t *testing.T) {
	d := readDashboard(t)
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 36 {
		t.Errorf("uid %q, title %q, schemaVersion %d", d.UID, d.Title, d.SchemaVersion)
	}
	ids, titles := map[int]bool{}, map[string]bool{}
	taken := map[[2]int]string{}
	var rows []string
	for _, p := range d.Panels {
		if ids[p.ID] || titles[p.Title] {
			t.Errorf("%s: id %d or title is used twice", p.Title, p.ID)
		}
		ids[p.ID], titles[p.Title] = true, true
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X < 0 || g.Y < 0 || g.X+g.W > 24 {
			t.Errorf("%s: does not fit the grid: %+v", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies on %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			rows = append(rows, p.Title)
			continue
		}
		if !slices.Contains([]string{"stat", "timeseries", "state-timeline", "table"}, p.Type) {
			t.Errorf("%s: type %q does not come with every Grafana", p.Title, p.Type)
		}
		if p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("%s: no description or no query", p.Title)
		}
		if p.FieldConfig.Defaults.Unit == "" && p.Type != "table" && p.Type != "state-timeline" {
			t.Errorf("%s: no unit", p.Title)
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if refs[target.RefID] {
				t.Errorf("%s: two queries %s", p.Title, target.RefID)
			}
			refs[target.RefID] = true
			for _, s := range []datasource{p.Datasource, target.Datasource} {
				if s.Type != "prometheus" || s.UID != "${datasource}" {
					t.Errorf("%s: data source %+v is not the variable's", p.Title, s)
				}
			}
			if !strings.Contains(target.Expr, "$instance") {
				t.Errorf("%s: the choice of agents does not apply: %s", p.Title, target.Expr)
			}
			if p.Type == "timeseries" && target.LegendFormat == "" {
				t.Errorf("%s: a query without a legend", p.Title)
			}
			for _, m := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				if by := regexp.MustCompile(`by \(([^)]*)\)`).FindStringSubmatch(target.Expr); by != nil &&
					!slices.Contains(strings.Split(by[1], ", "), m[1]) {
					t.Errorf("%s: the legend names %s, which %s leaves out", p.Title, m[1], target.Expr)
				}
			}
		}
	}
	want := []string{"Is it working", "What was lost", "Propagation", "Cost", "Export", "Kubernetes"}
	if !slices.Equal(rows, want) {
		t.Errorf("rows %v, want %v", rows, want)
	}
	variables := map[string]string{}
	for _, v := range d.Templating.List {
		variables[v.Name] = v.Type
	}
	if variables["datasource"] != "datasource" || variables["instance"] != "query" {
		t.Errorf("variables %v", variables)
	}
}

// sampleSeries are series of every documented metric, as promtool reads them.
func sampleSeries(t *testing.T) []map[string]string {
	t.Helper()
	documented, err := metricdoc.Read("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	// Labels whose values docs/metrics.md does not list.
	open := map[string]string{"version": "v1", "revision": "0", "goversion": "go1", "goos": "linux", "goarch": "amd64",
		"way": "fentry", "program": "weft_msg", "map": "conns", "exporter": "otlp"}
	var out []map[string]string
	add := func(name, kind string, labels, values []string) {
		text := fmt.Sprintf(`%s{job="weft",instance="node-a:9464"`, name)
		for i, l := range labels {
			text += fmt.Sprintf(",%s=%q", l, values[i])
		}
		samples := "1x60"
		if kind == "counter" {
			samples = "0+60x60"
		}
		out = append(out, map[string]string{"series": text + "}", "values": samples})
	}
	for _, m := range documented {
		rows := m.Values
		if rows == nil {
			row := make([]string, len(m.Labels))
			for i, l := range m.Labels {
				if row[i] = open[l]; row[i] == "" {
					t.Fatalf("%s: docs/metrics.md lists no values of %s, and this test knows none", m.Name, l)
				}
			}
			rows = [][]string{row}
		}
		for _, row := range rows {
			add(m.Name, m.Type, m.Labels, row)
		}
	}
	for name, kind := range standardMetrics(t) {
		add(name, kind, nil, nil)
	}
	return append(out, map[string]string{"series": `up{job="weft",instance="node-a:9464"}`, "values": "1x60"})
}

// promtool is the program, and Prometheus' own judgement.
func promtool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must run this test; it needs promtool: apt-get install prometheus")
		}
		t.Skip("needs promtool: apt-get install prometheus")
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	return string(out), err
}

// evaluate asks promtool which expressions give no series in a Prometheus that
// scraped every documented metric, with every documented label.
func evaluate(t *testing.T, expressions map[string]string) (string, error) {
	t.Helper()
	type sample struct {
		Labels string `yaml:"labels"`
		Value  int    `yaml:"value"`
	}
	type query struct {
		Expr    string   `yaml:"expr"`
		At      string   `yaml:"eval_time"`
		Samples []sample `yaml:"exp_samples"`
	}
	var queries []query
	for _, expr := range expressions {
		queries = append(queries, query{"count(" + expr + ") > bool 0", "30m", []sample{{"{}", 1}}})
	}
	text, err := yaml.Marshal(map[string]any{"evaluation_interval": "1m", "tests": []any{
		map[string]any{"interval": "1m", "input_series": sampleSeries(t), "promql_expr_test": queries}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "expressions.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return promtool(t, "test", "rules", file)
}

// TestDashboardExpressions proves that each query parses, and names metrics and
// labels that there are: it gives a series where every one is served.
func TestDashboardExpressions(t *testing.T) {
	expressions := readDashboard(t).expressions()
	if len(expressions) < 40 {
		t.Fatalf("%d expressions", len(expressions))
	}
	// Of what is right to give nothing where all is well, only the grammar.
	const restarts = "annotation Restarts"
	expressions[restarts] = "(" + expressions[restarts] + ") or vector(1)"
	if said, err := evaluate(t, expressions); err != nil {
		t.Errorf("%v\n%s", err, said)
	}
	// The same with a name, a label and the grammar wrong, one at a time.
	for _, wrong := range []string{`sum(rate(weft_spans_all{instance=~".*"}[5m]))`,
		`sum(rate(weft_dropped_total{reason="queue_full"}[5m]))`, `weft_ready * on (job, node) weft_injecting{way="x"}`, `sum(weft_ready`} {
		if said, err := evaluate(t, map[string]string{"wrong": wrong}); err == nil {
			t.Errorf("%s went unnoticed: %s", wrong, said)
		}
	}
}
