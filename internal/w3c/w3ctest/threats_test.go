package w3ctest_test

import (
	"os"
	"strings"
	"testing"
)

// TestThreatsHaveTests wants each row of the threat model in docs/security.md to name
// tests, and each test that the page names to exist.
func TestThreatsHaveTests(t *testing.T) {
	text, err := os.ReadFile(root + "/docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := goTests(t)
	_, model, found := strings.Cut(string(text), "\n## Threat model\n")
	if !found {
		t.Fatal("docs/security.md has no threat model")
	}
	threats := 0
	for line := range strings.Lines(model) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| it |") {
			continue
		}
		threats++
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if len(cells) != 3 {
			t.Errorf("security.md: %d cells, want 3: %s", len(cells), line)
		}
		if !held.MatchString(cells[len(cells)-1]) {
			t.Errorf("security.md: no test holds: %s", cells[0])
		}
	}
	named := held.FindAllStringSubmatch(string(text), -1)
	for _, match := range named {
		if !tests[match[1]] {
			t.Errorf("security.md names %s: no such test", match[1])
		}
	}
	if threats < 25 || len(named) < 50 {
		t.Errorf("%d threats, %d tests named: the page was not understood", threats, len(named))
	}
}
