package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ways are the ways of capture, in the order of the table; auto is weft's choice.
var ways = []string{"auto", "fentry", "kprobe", "tracepoint"}

// run is one run of the end-to-end tests on one kernel with one way of capture.
type run struct {
	Kernel  string     `json:"kernel"`  // as asked for: a series, newest, host
	Capture string     `json:"capture"` // as asked for: one of ways
	At      time.Time  `json:"at"`      // when it ended
	Version string     `json:"version"` // of weft, by git describe; "" of runs before there was this
	Passed  bool       `json:"passed"`  // all tests, not only the loads
	Doctor  *diagnosis `json:"doctor"`  // nil if it did not come that far
	Loads   []load     `json:"loads"`
}

// diagnosis is what is used of `weft doctor --json`.
type diagnosis struct {
	Kernel       string       `json:"kernel"` // uname -r
	Verdict      string       `json:"verdict"`
	Capabilities []capability `json:"capabilities"`
}

type capability struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Why   string `json:"why"`
	Mend  string `json:"mend,omitempty"`
}

// load is a line that test/e2e wrote for one load.
type load struct {
	Name     string `json:"name"`
	Requests int    `json:"requests"`
	Linked   int    `json:"linked"`
	Roots    int    `json:"roots"`
	Wrong    int    `json:"wrong"`
	Passed   bool   `json:"passed"`
}

// find is the capability of that name; without a report it has no state.
func (d *diagnosis) find(name string) capability {
	if d != nil {
		for _, c := range d.Capabilities {
			if c.Name == name {
				return c
			}
		}
	}
	return capability{}
}

// readRuns reads every run under dir. A folder without status is a run that has
// not ended. One that passed without a load shows nothing, and is left out.
func readRuns(dir string) ([]run, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	var runs []run
	for _, entry := range entries {
		at := strings.LastIndexByte(entry.Name(), '-')
		if !entry.IsDir() || at < 1 || !slices.Contains(ways, entry.Name()[at+1:]) {
			continue
		}
		r := run{Kernel: entry.Name()[:at], Capture: entry.Name()[at+1:]}
		ended, err := r.read(filepath.Join(dir, entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("%w: run `make vm KERNEL=%s` again, or delete %s", err, r.Kernel, filepath.Join(dir, entry.Name()))
		}
		if ended && (len(r.Loads) > 0 || !r.Passed) {
			runs = append(runs, r)
		}
	}
	return runs, nil
}

// read fills a run from its folder: status, version, doctor.json, loads.jsonl.
func (r *run) read(dir string) (ended bool, err error) {
	file := filepath.Join(dir, "status")
	status, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read run: %w", err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return false, fmt.Errorf("read run: %w", err)
	}
	r.At = info.ModTime().UTC().Truncate(time.Second)
	r.Passed = strings.TrimSpace(string(status)) == "0"
	text, err := os.ReadFile(filepath.Join(dir, "version"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read run: %w", err)
	}
	r.Version = strings.TrimSpace(string(text))
	text, err = os.ReadFile(filepath.Join(dir, "doctor.json"))
	switch {
	case err == nil:
		r.Doctor = &diagnosis{}
		if err := json.Unmarshal(text, r.Doctor); err != nil {
			return false, fmt.Errorf("read %s: %w", filepath.Join(dir, "doctor.json"), err)
		}
	case r.Passed || !errors.Is(err, fs.ErrNotExist): // a run that failed may have failed before
		return false, fmt.Errorf("read run: %w", err)
	}
	text, err = os.ReadFile(filepath.Join(dir, "loads.jsonl"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read run: %w", err)
	}
	for lines := json.NewDecoder(bytes.NewReader(text)); ; {
		var l load
		err := lines.Decode(&l)
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("read %s: %w", filepath.Join(dir, "loads.jsonl"), err)
		}
		r.Loads = append(r.Loads, l)
	}
}

// merge takes the later of two runs of the same kernel and way, and sorts: by
// release, this machine last.
func merge(kept, fresh []run) []run {
	var all []run
	for _, r := range slices.Concat(kept, fresh) {
		i := slices.IndexFunc(all, func(o run) bool { return o.Kernel == r.Kernel && o.Capture == r.Capture })
		switch {
		case i < 0:
			all = append(all, r)
		case !r.At.Before(all[i].At):
			all[i] = r
		}
	}
	releases := map[string]string{} // kernel → release, also for runs that did not say
	for _, r := range all {
		if r.Doctor != nil {
			releases[r.Kernel] = r.Doctor.Kernel
		}
	}
	slices.SortFunc(all, func(a, b run) int {
		if c := slices.Compare(order(a.Kernel, releases), order(b.Kernel, releases)); c != 0 {
			return c
		}
		if c := strings.Compare(a.Kernel, b.Kernel); c != 0 {
			return c
		}
		return slices.Index(ways, a.Capture) - slices.Index(ways, b.Capture)
	})
	return all
}

// order is what a kernel is sorted by.
func order(kernel string, releases map[string]string) []int {
	release := kernel
	if said, ok := releases[kernel]; ok {
		release = said
	}
	var major, minor int
	_, err := fmt.Sscanf(release, "%d.%d", &major, &minor)
	switch {
	case kernel == "host":
		return []int{2, major, minor}
	case err != nil: // newest, before it ever booted
		return []int{1}
	}
	return []int{0, major, minor}
}
