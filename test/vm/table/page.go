package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The runs themselves are kept in a comment of the page, one a line, so that a
// run of one kernel can rewrite the page with the rows of all.
const (
	beginRuns = "<!-- runs, for the program that writes this page\n"
	endRuns   = "-->\n"
)

const intro = "# Kernels\n\n" +
	"What the end-to-end tests found on each kernel. `make kernels` writes it anew, all rows;\n" +
	"`make vm KERNEL=6.12 CAPTURE=kprobe` one of them (`host` is `make test-root` with\n" +
	"`WEFT_E2E_RESULTS` set); do not edit. `weft` is the version that a row is of. Every load runs unmodified\n" +
	"services at the stated concurrency and judges each single request: `linked` is the share whose hops all\n" +
	"became one trace, `roots` are calls that began a trace of their own, `wrong` are edges that\n" +
	"contradict what happened, of which there must be none.\n"

// parsePage returns the runs kept in a page; an empty page has none.
func parsePage(page string) ([]run, error) {
	if page == "" {
		return nil, nil
	}
	_, rest, found := strings.Cut(page, beginRuns)
	lines, _, closed := strings.Cut(rest, endRuns)
	if !found || !closed {
		return nil, errors.New("the comment with the runs is missing")
	}
	var runs []run
	for line := range strings.Lines(lines) {
		var r run
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return nil, fmt.Errorf("%.60s…: %w", strings.TrimSpace(line), err)
		}
		runs = append(runs, r)
	}
	return runs, nil
}

// renderPage is the page for runs in merge's order.
func renderPage(runs []run) (string, error) {
	var b strings.Builder
	b.WriteString(intro)
	groups := byKernel(runs)
	renderRuns(&b, groups)
	renderLoads(&b, runs)
	renderDoctor(&b, groups)
	b.WriteString("\n" + beginRuns)
	for _, r := range runs {
		line, err := json.Marshal(r) // escapes >, so that no text ends the comment
		if err != nil {
			return "", fmt.Errorf("keep run: %w", err)
		}
		b.Write(append(line, '\n'))
	}
	b.WriteString(endRuns)
	return b.String(), nil
}

// byKernel groups neighbours of the same kernel.
func byKernel(runs []run) [][]run {
	var groups [][]run
	for _, r := range runs {
		if n := len(groups); n > 0 && groups[n-1][0].Kernel == r.Kernel {
			groups[n-1] = append(groups[n-1], r)
			continue
		}
		groups = append(groups, []run{r})
	}
	return groups
}

// reported is the report of the latest of these runs that has one; nil if none has.
func reported(runs []run) *diagnosis {
	var latest run
	for _, r := range runs {
		if r.Doctor != nil && !r.At.Before(latest.At) {
			latest = r
		}
	}
	return latest.Doctor
}

func renderRuns(b *strings.Builder, groups [][]run) {
	b.WriteString("\n## Runs\n\n")
	row(b, "kernel", "release", "capture asked", "used", "doctor", "receive program", "result", "weft", "date")
	rule(b, 9)
	for _, group := range groups {
		for _, way := range ways {
			i := slices.IndexFunc(group, func(r run) bool { return r.Capture == way })
			if i >= 0 {
				r := group[i]
				release, verdict := "unknown", "did not run"
				if r.Doctor != nil {
					release, verdict = r.Doctor.Kernel, r.Doctor.Verdict
				}
				row(b, r.Kernel, release, way, r.used(), verdict, r.receives(), r.result(), r.version(), r.At.Format("2006-01-02"))
				continue
			}
			d := reported(group)
			switch c := d.find("capture." + way); {
			case c.State == "missing":
				row(b, group[0].Kernel, d.Kernel, way, "", "", "", lacks(c), "", "")
			case c.State == "ok" && !slices.ContainsFunc(group, func(r run) bool { return r.used() == way }):
				row(b, group[0].Kernel, d.Kernel, way, "", "", "", "works, not run: `"+command(group[0].Kernel, way)+"`", "", "")
			}
		}
	}
}

// command is what runs a way of capture on a kernel.
func command(kernel, way string) string {
	if kernel == "host" {
		return "WEFT_E2E_RESULTS=/dev/null WEFT_CAPTURE=" + way + " make test-root"
	}
	return "make vm KERNEL=" + kernel + " CAPTURE=" + way
}

// version is that of weft, as the page shows it.
func (r *run) version() string {
	if r.Version == "" {
		return "earlier"
	}
	return r.Version
}

// lacks says what a way of capture needs that this kernel has not.
func lacks(c capability) string {
	need, found := strings.CutPrefix(c.Mend, "use ")
	if !found || !strings.HasPrefix(c.Why, "the kernel refuses it") {
		return "does not work: " + c.Why // weft's own failure, not the kernel's
	}
	need, _, _ = strings.Cut(need, ":") // the configuration behind it is doctor's to tell
	return "n/a: needs " + need
}

// used is the way of capture that weft took.
func (r *run) used() string {
	c := r.Doctor.find("capture")
	way, _, found := strings.Cut(c.Why, " would be used")
	if !found || c.State == "missing" {
		return "none"
	}
	return way
}

// receives says whether edited sockets need the receive program.
func (r *run) receives() string {
	switch c := r.Doctor.find("injection"); {
	case strings.Contains(c.Why, "with the receive program"):
		return "yes"
	case c.State == "ok":
		return "no"
	}
	return "unknown"
}

func (r *run) result() string {
	passed := 0
	for _, l := range r.Loads {
		if l.Passed {
			passed++
		}
	}
	switch {
	case r.Passed && passed == len(r.Loads):
		return fmt.Sprintf("passed, %d of %d loads", passed, len(r.Loads))
	case len(r.Loads) == 0:
		return "**failed** before the first load ended"
	case passed == len(r.Loads):
		return fmt.Sprintf("**failed**: %d of %d loads passed, another test did not", passed, len(r.Loads))
	}
	return fmt.Sprintf("**failed**: %d of %d loads passed", passed, len(r.Loads))
}

func renderLoads(b *strings.Builder, runs []run) {
	b.WriteString("\n## Loads\n\n")
	row(b, "kernel", "capture", "load", "requests", "linked", "roots", "wrong", "result")
	rule(b, 8)
	for _, r := range runs {
		for _, l := range r.Loads {
			result := "passed"
			if !l.Passed {
				result = "**failed**"
			}
			row(b, r.Kernel, r.Capture, l.Name, fmt.Sprint(l.Requests),
				fmt.Sprintf("%.1f %%", 100*float64(l.Linked)/float64(max(l.Requests, 1))),
				fmt.Sprint(l.Roots), fmt.Sprint(l.Wrong), result)
		}
	}
}

// renderDoctor is one column a kernel. What depends on the way asked for stands
// with the runs. Rows are those of the latest report: what doctor had before it has no
// longer.
func renderDoctor(b *strings.Builder, groups [][]run) {
	head := []string{"capability"}
	var found []*diagnosis
	var kernels, names []string
	latest := reported(slices.Concat(groups...))
	for _, group := range groups {
		d := reported(group)
		if d == nil {
			continue
		}
		found, kernels = append(found, d), append(kernels, group[0].Kernel)
		head = append(head, group[0].Kernel+" ("+d.Kernel+")")
		for _, c := range latest.Capabilities {
			if c.Name != "kernel" && c.Name != "capture" && !slices.Contains(names, c.Name) {
				names = append(names, c.Name)
			}
		}
	}
	b.WriteString("\n## What `weft doctor` finds\n\n")
	row(b, head...)
	rule(b, len(head))
	var notes []string
	for _, name := range names {
		cells := []string{"`" + name + "`"}
		for i, d := range found {
			c := d.find(name)
			if c.State == "" {
				c.State = "not asked"
			}
			cells = append(cells, c.State)
			if c.State != "ok" && c.Why != "" {
				notes = append(notes, fmt.Sprintf("- `%s` on %s, %s: %s", name, kernels[i], c.State, c.Why))
			}
		}
		row(b, cells...)
	}
	if len(notes) > 0 {
		b.WriteString("\n" + strings.Join(notes, "\n") + "\n")
	}
}

var cell = strings.NewReplacer("|", `\|`, "\n", " ")

func row(b *strings.Builder, cells ...string) {
	for _, c := range cells {
		b.WriteString("| " + cell.Replace(c) + " ")
	}
	b.WriteString("|\n")
}

func rule(b *strings.Builder, columns int) {
	b.WriteString(strings.Repeat("|---", columns) + "|\n")
}
