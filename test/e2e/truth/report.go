package truth

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Count returns how many problems of a kind were found.
func (r *Report) Count(kind string) int { return r.counts[kind] }

// Wrong is the number of edges that contradict what happened.
func (r *Report) Wrong() int { return r.counts["wrong-edge"] + r.counts["wrong-trace"] }

// Kinds returns the kinds of problems found, sorted.
func (r *Report) Kinds() []string {
	var kinds []string
	for k := range r.counts {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	return kinds
}

// Err is nil if nothing is wrong, else it lists the problems by kind with a
// few examples each.
func (r *Report) Err() error {
	if len(r.counts) == 0 {
		return nil
	}
	var b strings.Builder
	for _, kind := range r.Kinds() {
		fmt.Fprintf(&b, "\n%s: %d", kind, r.counts[kind])
		for _, example := range r.problems[kind] {
			fmt.Fprintf(&b, "\n\t%s", example)
		}
	}
	return errors.New(strings.TrimPrefix(b.String(), "\n"))
}
