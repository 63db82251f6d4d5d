package metricdoc

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func read(t *testing.T, text string) (map[string]*Metric, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "metrics.md")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Read(path)
}

const rows = "| metric | type | labels | meaning |\n|---|---|---|---|\n" +
	"| `a_total` | counter | `x`, `y` | what `a` is |\n" +
	"| `b` | gauge | | b |\n"

func TestRead(t *testing.T) {
	got, err := read(t, "# Title\n\n| other | table |\n|---|---|\n| `c` | d |\n\n"+rows+
		"\n| `a_total{x,y}` | means |\n|---|---|\n| `1`, `2` | `3` |\n| `4`, `5` | 6 |\n\n| `b` | no more |\n")
	if err != nil {
		t.Fatal(err)
	}
	a, b := got["a_total"], got["b"]
	if len(got) != 2 || a == nil || b == nil {
		t.Fatalf("%v", got)
	}
	if a.Type != "counter" || !slices.Equal(a.Labels, []string{"x", "y"}) || a.Meaning != "what `a` is" || len(a.Values) != 2 ||
		!slices.Equal(a.Values[0], []string{"1", "2"}) || !slices.Equal(a.Values[1], []string{"4", "5"}) {
		t.Errorf("%+v", a)
	}
	if b.Type != "gauge" || b.Labels != nil || b.Values != nil {
		t.Errorf("%+v", b)
	}
}

func TestReadRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"nothing":                                                          "no table of metrics",
		rows + "| `b` | gauge | | again |\n":                               "5: b has a row already",
		rows + "| `c` | number | | c |\n":                                  "5: want a name, counter or gauge",
		rows + "| `c` | gauge | |\n":                                       "5: want metric, type, labels, meaning",
		rows + "| `c` | gauge | | |\n":                                     "5: want a name, counter or gauge, and a meaning",
		rows + "\n| `c{x}` | means |\n":                                    "6: values of `c{x}`",
		rows + "\n| `a_total{x}` | means |\n":                              "6: values of `a_total{x}`",
		rows + "\n| `a_total{x,y}` | means |\n|---|---|\n| `1` | 2 |\n":    "8: want 2 values",
		rows + "\n| `a_total{x,y}` | means |\n|---|---|\n| `1`, `2` | |\n": "8: want 2 values",
	} {
		if _, err := read(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
