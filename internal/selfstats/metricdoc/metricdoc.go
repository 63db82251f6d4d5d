// Package metricdoc reads docs/metrics.md, for the tests that hold that page to
// the agent, and the dashboard and alert rules to the page.
package metricdoc

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Metric is one row of the page.
type Metric struct {
	Name    string
	Type    string // counter or gauge
	Labels  []string
	Meaning string
	// Values are the combinations of label values that the page lists, in the
	// order of Labels; nil if it lists none.
	Values [][]string
}

var (
	code   = regexp.MustCompile("`([^`]+)`")
	header = regexp.MustCompile("^`([a-z0-9_]+)\\{([a-z_,]+)\\}`$")
)

// Read reads the page at path: tables headed "metric | type | labels | meaning",
// and tables of label values headed "`metric{label,…}` | means".
func Read(path string) (map[string]*Metric, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the page of metrics: %w", err)
	}
	metrics := map[string]*Metric{}
	var metricRows bool
	var values *Metric
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			metricRows, values = false, nil
			continue
		}
		if strings.HasPrefix(line, "|---") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		head := header.FindStringSubmatch(cells[0])
		switch {
		case cells[0] == "metric":
			metricRows = true
		case head != nil:
			if values = metrics[head[1]]; values == nil || !slices.Equal(values.Labels, strings.Split(head[2], ",")) {
				return nil, fmt.Errorf("%s:%d: values of %s, which has no row above with these labels", path, number, head[0])
			}
		case values != nil:
			var row []string
			for _, m := range code.FindAllStringSubmatch(cells[0], -1) {
				row = append(row, m[1])
			}
			if len(row) != len(values.Labels) || len(cells) != 2 || cells[1] == "" {
				return nil, fmt.Errorf("%s:%d: want %d values and what they mean: %s", path, number, len(values.Labels), line)
			}
			values.Values = append(values.Values, row)
		case metricRows:
			m, err := metric(line)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", path, number, err)
			}
			if metrics[m.Name] != nil {
				return nil, fmt.Errorf("%s:%d: %s has a row already", path, number, m.Name)
			}
			metrics[m.Name] = m
		}
	}
	if len(metrics) == 0 {
		return nil, fmt.Errorf("%s: no table of metrics", path)
	}
	return metrics, nil
}

// metric reads "| `name` | type | `label`, … | meaning |".
func metric(line string) (*Metric, error) {
	cells := strings.SplitN(strings.Trim(line, "|"), "|", 4)
	if len(cells) != 4 {
		return nil, fmt.Errorf("want metric, type, labels, meaning: %s", line)
	}
	name := code.FindStringSubmatch(cells[0])
	m := &Metric{Type: strings.TrimSpace(cells[1]), Meaning: strings.TrimSpace(cells[3])}
	if name == nil || m.Meaning == "" || m.Type != "counter" && m.Type != "gauge" {
		return nil, fmt.Errorf("want a name, counter or gauge, and a meaning: %s", line)
	}
	m.Name = name[1]
	for _, l := range code.FindAllStringSubmatch(cells[2], -1) {
		m.Labels = append(m.Labels, l[1])
	}
	return m, nil
}
