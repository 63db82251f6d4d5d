package offsets

import (
	goversion "go/version"
	"strings"
	"testing"

	"golang.org/x/mod/semver"
)

func TestParseGo(t *testing.T) {
	for _, c := range []struct {
		in, version string
		plain       bool
	}{
		{"go1.19", "go1.19", true},
		{"go1.22.3", "go1.22.3", true},
		{"go1.26rc1", "go1.26rc1", true},
		{"go1.22.3 X:boringcrypto", "go1.22.3", false},
		{"go1.24.1 X:noswissmap,synctest", "go1.24.1", false},
		{"go1.22.3-acme", "go1.22.3", false},
		{"devel go1.27-8d79b5ab12 Tue Nov 3 10:00:00 2026 +0000", "go1.27", false},
		{"go1.27-devel_8d79b5ab12 Tue Nov 3 10:00:00 2026 +0000", "", false},
		{"devel +8d79b5ab12 Tue Nov 3 10:00:00 2026 +0000", "", false},
		{"go1.20 or newer", "", false},
		{"1.22.3", "", false},
		{"go1.22.3.4", "", false},
		{"go", "", false},
		{"", "", false},
		{"go1." + strings.Repeat("9", 100), "", false},
	} {
		if version, plain := parseGo(c.in); version != c.version || plain != c.plain {
			t.Errorf("parseGo(%q) = %q, %v, want %q, %v", c.in, version, plain, c.version, c.plain)
		}
	}
}

func TestParseModule(t *testing.T) {
	for _, c := range []struct {
		in, version string
		plain       bool
	}{
		{"v1.60.1", "v1.60.1", true},
		{"v0.0.0-20220722155237-a158d28d115b", "v0.0.0-20220722155237-a158d28d115b", true},
		{"v1.64.0-dev", "v1.64.0-dev", true},
		{"v2.0.0+incompatible", "v2.0.0", true},
		{"v1.60.1+dirty", "v1.60.1", false},
		{"v1.60", "", false},
		{"(devel)", "", false},
		{"1.60.1", "", false},
		{"", "", false},
		{"v1." + strings.Repeat("9", 200) + ".0", "", false},
	} {
		if version, plain := parseModule(c.in); version != c.version || plain != c.plain {
			t.Errorf("parseModule(%q) = %q, %v, want %q, %v", c.in, version, plain, c.version, c.plain)
		}
	}
}

// FuzzVersion: whatever a binary says, what is read of it is a version, and reading
// that again changes nothing.
func FuzzVersion(f *testing.F) {
	for _, s := range []string{
		"go1.22.3", "go1.26rc1", "devel go1.27-8d79b5 Tue", "go1.22.3 X:boringcrypto", "go1.20 or newer", "go1.21",
		"v1.60.1", "v0.0.0-20220722155237-a158d28d115b", "v0.3.1-0.20221206200815-1e63c2f08a10", "(devel)", "v2.0.0+incompatible",
	} {
		f.Add(s)
	}
	spans := []span{{"go1.19", "go1.19.13", 8, true}, {"go1.20", "go1.26.11", 16, true}}
	f.Fuzz(func(t *testing.T, s string) {
		if v, plain := parseGo(s); v != "" {
			if !goversion.IsValid(v) {
				t.Errorf("parseGo(%q) = %q, which is no version", s, v)
			}
			if again, same := parseGo(v); again != v || !same {
				t.Errorf("parseGo(%q) = %q, of which parseGo makes %q, %v", s, v, again, same)
			}
			if plain && v != s {
				t.Errorf("parseGo(%q) = %q, plain", s, v)
			}
		}
		if v, _ := parseModule(s); v != "" {
			if !semver.IsValid(v) {
				t.Errorf("parseModule(%q) = %q, which is no version", s, v)
			}
			if again, same := parseModule(v); again != v || !same {
				t.Errorf("parseModule(%q) = %q, of which parseModule makes %q, %v", s, v, again, same)
			}
		}
		r := find(schemeOf(Std), spans, s)
		if v, plain := parseGo(s); r.Exact && (!plain || goversion.Compare(v, "go1.19") < 0 || goversion.Compare(goversion.Lang(v), "go1.26") > 0) {
			t.Errorf("find(%q) = %+v, which nobody measured", s, r)
		}
	})
}
