package config

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func mustGlob(t testing.TB, pattern string) Glob {
	t.Helper()
	g, err := CompileGlob(pattern)
	if err != nil {
		t.Fatalf("CompileGlob(%q): %v", pattern, err)
	}
	return g
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{"*", []string{"", "a", "/a b/c\n"}, nil},
		{"a", []string{"a"}, []string{"", "aa", "b"}},
		{"/usr/bin/python3*", []string{"/usr/bin/python3", "/usr/bin/python3.11"}, []string{"/usr/bin/python", "x/usr/bin/python3"}},
		{"/usr/*/node", []string{"/usr/bin/node", "/usr/local/bin/node"}, []string{"/usr/node", "/usr/bin/node2"}},
		{"*cart.py*", []string{"cart.py", "python3 /srv/cart.py --port 80"}, []string{"python3 cart_py"}},
		{"*ab*ab", []string{"abab", "xabyabzab"}, []string{"ab", "ababc"}},
		{"a**b", []string{"ab", "axb"}, []string{"a"}},
		{"?", []string{"a", "é", "\xff"}, []string{"", "ab"}},
		{"*?b", []string{"ab", "éb", "bb"}, []string{"b"}},
		{"[a-c_]x", []string{"ax", "_x"}, []string{"dx", "x"}},
		{"[!a-c]x", []string{"dx", "éx"}, []string{"ax", "x"}},
		{"[^]]", []string{"a"}, []string{"]"}},
		{"[]a]", []string{"]", "a"}, []string{"b"}},
		{"[a-]", []string{"a", "-"}, []string{"b"}},
		{`[\]\-]`, []string{"]", "-"}, []string{`\`}},
		{`\*\[\\`, []string{`*[\`}, []string{`a[\`}},
		{"[α-ω]*", []string{"λx"}, []string{"x"}},
	} {
		g := mustGlob(t, c.pattern)
		for _, s := range c.yes {
			if !g.Match(s) {
				t.Errorf("%q does not match %q", c.pattern, s)
			}
		}
		for _, s := range c.no {
			if g.Match(s) {
				t.Errorf("%q matches %q", c.pattern, s)
			}
		}
	}
}

// toRegexp is the plain translation that Match is held against.
func toRegexp(g Glob) string {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for _, tok := range g.tokens {
		switch tok.kind {
		case tokenLiteral:
			b.WriteString(regexp.QuoteMeta(tok.literal))
		case tokenStar:
			b.WriteString(`.*`)
		case tokenAny:
			b.WriteString(`.`)
		case tokenSet:
			b.WriteString(`[`)
			if tok.negated {
				b.WriteString(`^`)
			}
			for _, r := range tok.ranges {
				b.WriteString(regexpRune(r.lo) + "-" + regexpRune(r.hi))
			}
			b.WriteString(`]`)
		}
	}
	b.WriteString(`\z`)
	return b.String()
}

func regexpRune(r rune) string {
	if strings.ContainsRune(`\]^-[`, r) {
		return `\` + string(r)
	}
	return string(r)
}

func FuzzGlob(f *testing.F) {
	for _, p := range []string{"*", "a*b?c", "[a-z]*[!0-9]", `\*x`, "[]-a]", "*ab*ab", "é?*", "[", "a[^", `[\`, "**?"} {
		f.Add(p, "aab12 ab/é*x")
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 100 || len(s) > 1000 {
			t.Skip()
		}
		g, err := CompileGlob(pattern)
		if err != nil {
			if strings.ContainsRune(err.Error(), '\n') && !strings.ContainsRune(pattern, '\n') {
				t.Errorf("more than one line: %v", err)
			}
			return
		}
		got := g.Match(s)
		for _, tok := range g.tokens {
			// The escape in `\é` takes one byte of it, so a literal may hold what regexp refuses.
			if !utf8.ValidString(tok.literal) {
				t.Skip()
			}
		}
		if want := regexp.MustCompile(toRegexp(g)).MatchString(s); got != want {
			t.Errorf("Match(%q, %q) = %v, regexp says %v", pattern, s, got, want)
		}
	})
}

func TestMatch(t *testing.T) {
	c := Candidate{PID: 42, Exe: "/usr/bin/python3.11", Args: "python3 /srv/cart.py", Cgroup: "/kubepods/pod1", Ports: []uint16{22, 9005}}
	for text, want := range map[string]bool{
		`{pid: 42}`: true, `{pid: 43}`: false,
		`{exe: "/usr/bin/python3*"}`: true, `{exe: "python3*"}`: false,
		`{args: "*cart.py*"}`: true, `{args: "*shop.py*"}`: false,
		`{cgroup: "/kubepods*"}`: true, `{cgroup: "/system*"}`: false,
		`{port: "8080,9000-9010"}`: true, `{port: 9004}`: false, `{port: 22}`: true,
		`{pid: 42, exe: "*", args: "*", cgroup: "*", port: 1-65535}`: true,
		`{pid: 42, exe: "*", args: "*", cgroup: "*", port: 80}`:      false,
		`{pid: 42, args: "*shop.py*"}`:                               false,
	} {
		target := load(t, "targets: ["+text+"]").Targets[0]
		if got := target.Match(c); got != want {
			t.Errorf("%s: Match = %v, want %v", text, got, want)
		}
	}
	if (&Target{Name: "x"}).Match(c) {
		t.Error("a target without selectors matches")
	}
}

func TestMatchPod(t *testing.T) {
	pod := Pod{Namespace: "shop", Deployment: "cart", Container: "app", Labels: map[string]string{"tier": "web", "flag": ""}}
	unnamed, db := pod, Pod{Namespace: "shop", StatefulSet: "db", Container: "postgres"}
	unnamed.Container = ""
	known := Candidate{PID: 42, Pod: &pod, InPod: true}
	starting := Candidate{PID: 42, Pod: &unnamed, InPod: true}
	unknown := Candidate{PID: 42, InPod: true}
	outside := Candidate{PID: 42}
	other := Candidate{PID: 42, Pod: &db, InPod: true}
	for _, c := range []struct {
		text string
		// of a pod that is known, one whose container is not named yet, one not
		// known yet, a process outside pods, and a pod of a StatefulSet
		known, starting, unknown, outside, other bool
	}{
		{`{k8s: {namespace: shop}}`, true, true, false, false, true},
		{`{k8s: {namespace: "sh*"}}`, true, true, false, false, true},
		{`{k8s: {namespace: "*"}}`, true, true, false, false, true},
		{`{k8s: {namespace: other}}`, false, false, false, false, false},
		{`{k8s: {deployment: cart}}`, true, true, false, false, false},
		{`{k8s: {deployment: "*"}}`, true, true, false, false, false},
		{`{k8s: {statefulset: "[a-d]b"}}`, false, false, false, false, true},
		{`{k8s: {daemonset: "*"}}`, false, false, false, false, false},
		{`{k8s: {container: app}}`, true, false, false, false, false},
		{`{k8s: {container: "*"}}`, true, false, false, false, true},
		{`{k8s: {labels: {tier: web}}}`, true, true, false, false, false},
		{`{k8s: {labels: {tier: "w?b", flag: "*"}}}`, true, true, false, false, false},
		{`{k8s: {labels: {tier: web, none: "*"}}}`, false, false, false, false, false},
		{`{k8s: {namespace: shop, deployment: cart, container: app, labels: {tier: web}}}`, true, false, false, false, false},
		{`{k8s: {namespace: shop}, pid: 43}`, false, false, false, false, false},
		{`{k8s: {namespace: shop}, pid: 42}`, true, true, false, false, true},
		// What is not known yet is left alone.
		{`{k8s: {namespace: shop}, exclude: true}`, true, true, true, false, true},
		{`{k8s: {namespace: other}, exclude: true}`, false, false, true, false, false},
		{`{k8s: {container: app}, exclude: true}`, true, true, true, false, false},
		{`{k8s: {namespace: other, container: app}, exclude: true}`, false, false, true, false, false},
		{`{k8s: {namespace: shop}, pid: 43, exclude: true}`, false, false, false, false, false},
	} {
		target := load(t, "targets: ["+c.text+"]").Targets[0]
		for _, m := range []struct {
			name      string
			candidate Candidate
			want      bool
		}{{"known", known, c.known}, {"starting", starting, c.starting}, {"unknown", unknown, c.unknown}, {"outside", outside, c.outside}, {"other", other, c.other}} {
			if got := target.Match(m.candidate); got != m.want {
				t.Errorf("%s, %s: Match = %v, want %v", c.text, m.name, got, m.want)
			}
		}
	}
}

func TestSelectFirstWins(t *testing.T) {
	targets := load(t, `targets:
- {name: one, port: 80}
- {exe: "*/secret*", exclude: true}
- {name: rest, exe: "*"}
`).Targets
	for _, c := range []struct {
		candidate Candidate
		want      string
	}{
		{Candidate{Exe: "/bin/secret", Ports: []uint16{80}}, "one"},
		{Candidate{Exe: "/bin/secret"}, ""},
		{Candidate{Exe: "/bin/open"}, "rest"},
	} {
		got, ok := targets.Select(c.candidate)
		name := ""
		if ok {
			name = got.Name
		}
		if name != c.want || ok != (got != nil) {
			t.Errorf("%+v: selected by %q (%v), want %q", c.candidate, name, ok, c.want)
		}
	}
	if _, ok := (Targets{}).Select(Candidate{PID: 1}); ok {
		t.Error("no targets select a process")
	}
}

func TestTargetString(t *testing.T) {
	targets := load(t, "targets:\n- {name: cart, exe: \"/bin/a*\", port: \"80,90-91\"}\n- {pid: 7, exclude: true}\n"+
		"- {k8s: {namespace: shop, deployment: cart, container: app, labels: {tier: web, app: \"*\"}}}\n").Targets
	for i, want := range []string{"cart (exe=/bin/a* port=80,90-91)", "(pid=7 exclude)",
		"(k8s={container=app deployment=cart namespace=shop labels.app=* labels.tier=web})"} {
		if got := targets[i].String(); got != want {
			t.Errorf("String() = %q, want %q", got, want)
		}
	}
	if got := targets[1].Where(); got != "weft.yaml:3" {
		t.Errorf("Where() = %q", got)
	}
}

func TestSelectDoesNotAllocate(t *testing.T) {
	targets, c := benchTargets(t)
	if n := testing.AllocsPerRun(100, func() { targets.Select(c) }); n != 0 {
		t.Errorf("%v allocations per Select", n)
	}
}

func BenchmarkSelect(b *testing.B) {
	targets, c := benchTargets(b)
	for b.Loop() {
		targets.Select(c)
	}
}

func benchTargets(t testing.TB) (Targets, Candidate) {
	var targets Targets
	for range 16 {
		targets = append(targets, Target{Exe: mustGlob(t, "/usr/*bin/python3*"), Args: mustGlob(t, "*[a-c]art*.py*--port*")})
	}
	targets = append(targets, Target{K8s: K8s{Namespace: mustGlob(t, "sh*"), Container: mustGlob(t, "app"), Labels: []LabelGlob{{"tier", mustGlob(t, "none")}}}})
	pod := &Pod{Namespace: "shop", Container: "app", Labels: map[string]string{"tier": "web"}}
	return targets, Candidate{PID: 9, Pod: pod, InPod: true, Exe: "/usr/bin/python3.11", Args: "python3 " + strings.Repeat("/srv/app ", 50)}
}
