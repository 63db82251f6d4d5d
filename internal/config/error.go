package config

import (
	"errors"
	"maps"
	"slices"
	"strings"
)

// Error is one mistake of the user's, on one line.
type Error struct {
	Where   string // "weft.yaml:7", or the name of the variable
	Key     string // "sampling.ratio"; empty where Where says it already
	Problem string // what is wrong, and how to mend it
}

func (e *Error) Error() string {
	parts := make([]string, 0, 3)
	for _, s := range []string{e.Where, e.Key, e.Problem} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

// problems collects mistakes so that one run shows all of them.
type problems struct {
	list []error
	// checks look at several keys at once, when all are read: by the key that
	// asks, so that a variable's check takes the place of the file's.
	checks map[string]func(*Config)
}

func (p *problems) add(e *Error) { p.list = append(p.list, e) }

func (p *problems) later(key string, check func(*Config)) {
	if p.checks == nil {
		p.checks = map[string]func(*Config){}
	}
	p.checks[key] = check
}

// crossCheck compares keys with each other, if each by itself is right.
func (p *problems) crossCheck(c *Config) {
	if len(p.list) > 0 {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(p.checks)) {
		p.checks[key](c)
	}
}

func (p *problems) err() error { return errors.Join(p.list...) }

// nearest is the candidate with the smallest edit distance to s, or "" when
// even that one shares too little with s to be what was meant.
func nearest(s string, candidates []string) string {
	best, bestDistance := "", 0
	for _, c := range candidates {
		if d := distance(s, c); best == "" || d < bestDistance {
			best, bestDistance = c, d
		}
	}
	if limit := max(2, len(s)/2); bestDistance > limit {
		return ""
	}
	return best
}

// distance is the optimal string alignment distance: insertions, deletions,
// substitutions and swaps of neighbours (the commonest slip in typing).
func distance(a, b string) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}

// suggest ends an "unknown" message: the nearest name, or all of them.
func suggest(s string, candidates []string) string {
	if n := nearest(s, candidates); n != "" {
		return `did you mean "` + n + `"?`
	}
	return "known here: " + strings.Join(candidates, ", ")
}
