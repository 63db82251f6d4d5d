package w3ctest_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"weft/internal/w3c/w3ctest"
)

const root = "../../.."

// goTests returns the names of all test and fuzz functions of the tree.
func goTests(t *testing.T) map[string]bool {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	names := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && entry.Name() != ".." || entry.Name() == "cache") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range declared.FindAllSubmatch(text, -1) {
			names[string(match[1])] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// vectorNames returns all "file: name".
func vectorNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, kind := range []string{"tracestate", "baggage"} {
		for _, v := range readVectors(t, kind, 70) {
			if names[kind+": "+v.Name] {
				t.Errorf("%s.txt:%d: two vectors are named %q", kind, v.Line, v.Name)
			}
			names[kind+": "+v.Name] = true
		}
	}
	// Its vectors have no names: the comment before a group stands for it.
	text, err := os.ReadFile(root + "/bpf/tests/vectors/traceparent.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if comment, ok := strings.CutPrefix(line, "# "); ok {
			names["traceparent: "+comment] = true
		}
	}
	return names
}

// held is a name in code quotes.
var held = regexp.MustCompile("`((?:Test|Fuzz)\\w+|(?:traceparent|tracestate|baggage): [^`]+)`")

// TestRulesHaveTests wants every test and vector that docs/w3c.md names to exist, or
// the page to admit that it does not yet; and every rule in its tables to have one, or
// to say "none" and why.
func TestRulesHaveTests(t *testing.T) {
	text, err := os.ReadFile(root + "/docs/w3c.md")
	if err != nil {
		t.Fatal(err)
	}
	tests, vectors := goTests(t), vectorNames(t)
	rules, named := 0, 0
	missing := map[string]bool{}
	page := strings.Split(string(text), "\n")
	for i, line := range page {
		if list, ok := strings.CutPrefix(line, "Not written yet: "); ok {
			for _, match := range held.FindAllStringSubmatch(list, -1) {
				missing[match[1]] = true
				if tests[match[1]] {
					t.Errorf("w3c.md:%d: %s is written now: take this line out", i+1, match[1])
				}
			}
		}
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|--") || strings.HasPrefix(line, "| Rule") {
			continue
		}
		rules++
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		last := strings.TrimSpace(cells[len(cells)-1])
		if len(cells) != 3 {
			t.Errorf("w3c.md:%d: %d cells, want 3", i+1, len(cells))
		}
		if found := held.FindAllString(last, -1); len(found) == 0 && !strings.HasPrefix(last, "none: ") {
			t.Errorf("w3c.md:%d: no test holds %s", i+1, cells[0])
		}
	}
	// In the text between the tables a name may go over two lines.
	for _, match := range held.FindAllStringSubmatch(strings.Join(page, " "), -1) {
		named++
		if name := strings.Join(strings.Fields(match[1]), " "); !tests[name] && !vectors[name] && !missing[name] {
			t.Errorf("w3c.md names %q: no such test or vector", name)
		}
	}
	if rules < 45 || named < 100 {
		t.Errorf("%d rules, %d names: the page was not understood", rules, named)
	}
}

// TestRulesCanFail wants the check above to know what there is not.
func TestRulesCanFail(t *testing.T) {
	tests, vectors := goTests(t), vectorNames(t)
	for name, want := range map[string]bool{"TestRulesCanFail": true, "TestNobodyWrote": false} {
		if tests[name] != want {
			t.Errorf("test %s: %v", name, !want)
		}
	}
	for name, want := range map[string]bool{"tracestate: no line": true, "baggage: nobody wrote": false, "traceparent: Too short.": true} {
		if vectors[name] != want {
			t.Errorf("vector %s: %v", name, !want)
		}
	}
	row := "`TestA` `traceparent: a b` `tracestate: c d`, `FuzzE`, `test`."
	var got []string
	for _, match := range held.FindAllStringSubmatch(row, -1) {
		got = append(got, match[1])
	}
	if strings.Join(got, "|") != "TestA|traceparent: a b|tracestate: c d|FuzzE" {
		t.Errorf("names in a row: %q", got)
	}
	if _, err := w3ctest.Read("no such file"); err == nil {
		t.Error("a file that is not there was read")
	}
}
