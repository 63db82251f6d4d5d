package offsets

import (
	goversion "go/version"
	"strings"

	"golang.org/x/mod/semver"
)

// A scheme is how the versions of a module are read and ordered.
type scheme struct {
	// parse gives the version in its canonical form, "" for what is none. Plain is
	// false for a version that says itself that it is not quite that one.
	parse   func(s string) (version string, plain bool)
	compare func(a, b string) int
	// minor is the part that patch releases share.
	minor func(v string) string
	// pre tells pre-releases and pseudo-versions.
	pre func(v string) bool
}

func schemeOf(module string) scheme {
	if module == Std {
		return scheme{parseGo, goversion.Compare, goversion.Lang, preGo}
	}
	return scheme{parseModule, semver.Compare, semver.MajorMinor,
		func(v string) bool { return semver.Prerelease(v) != "" }}
}

// parseGo reads what runtime.Version says: "go1.22.3", "go1.26rc1". Others build
// their own ("go1.22.3-acme", "go1.22.3 X:boringcrypto", "devel go1.27-8d79b5…"):
// these are read as the version they name, but not plain.
func parseGo(s string) (version string, plain bool) {
	s, devel := strings.CutPrefix(s, "devel ")
	word, rest, more := strings.Cut(s, " ")
	v, _, suffix := strings.Cut(word, "-")
	// Longer than any, and go/version takes numbers of any length.
	if len(v) > 32 || !goversion.IsValid(v) || more && !devel && !strings.HasPrefix(rest, "X:") {
		return "", false
	}
	return v, !devel && !more && !suffix
}

func preGo(v string) bool {
	return strings.ContainsAny(strings.TrimPrefix(v, "go"), "abcdefghijklmnopqrstuvwxyz")
}

// parseModule reads a version of build information: "v1.60.1",
// "v0.0.0-20220722155237-a158d28d115b". "(devel)" is none.
func parseModule(s string) (version string, plain bool) {
	if len(s) > 128 || !semver.IsValid(s) || semver.Canonical(s) != strings.TrimSuffix(s, semver.Build(s)) {
		return "", false
	}
	build := semver.Build(s)
	return semver.Canonical(s), build == "" || build == "+incompatible"
}
