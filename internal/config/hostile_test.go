package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestHostileFile: files that are endless, or become so when read, cost neither
// memory nor time, and are refused in short lines.
func TestHostileFile(t *testing.T) {
	// Each level ten times the one before: 10¹² words if they were written out.
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c <= 'l'; c++ {
		before := "*" + string(c-1)
		bomb += string(c) + ": &" + string(c) + " [" + strings.Repeat(before+", ", 9) + before + "]\n"
	}
	for name, text := range map[string]string{
		"aliases of aliases":       bomb + "targets: *l\npropagation: {egress: *l, trust: *l, inject: *l}\nsampling: {rules: *l}\nbaggage: {attributes: *l, set: *l}\n",
		"aliases as targets":       "targets: *l\n" + bomb,
		"many aliases of one list": "x: &x {exe: /a}\ntargets: [" + strings.Repeat("*x, ", 10_000) + "*x]\n",
		"deep":                     strings.Repeat("[", 20_000),
		"itself":                   "targets: &t [*t]\n",
		"a long key":               strings.Repeat("k", 50_000) + ": 1\n",
		"a long pattern":           "targets: [{exe: \"" + strings.Repeat("*a?", 30_000) + "\"}]\n",
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			c, err := Parse("weft.yaml", []byte(text), nil)
			if err == nil && len(c.Targets) == 0 {
				t.Error("taken for a good configuration")
			}
			if took := time.Since(began); took > time.Minute {
				t.Errorf("it took %v", took)
			}
		})
	}
	for _, path := range []string{"/dev/zero", longFile(t)} {
		_, err := Load(path, nil)
		if err == nil || !strings.Contains(err.Error(), path+" is longer than 1 MiB") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func longFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weft.yaml")
	if err := os.WriteFile(path, []byte("#\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, maxFile+1); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestHostileGlob: the worst pattern on the longest command line that weft reads.
func TestHostileGlob(t *testing.T) {
	pattern := strings.Repeat("*a?[a-z]", 8) + "*b"
	g, err := CompileGlob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if g.Match(strings.Repeat("a", 1<<20)) {
		t.Error("it matched")
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %v", took)
	}
}
