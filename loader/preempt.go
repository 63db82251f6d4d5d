package loader

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// preemption is whether a kernel preempts what runs in it.
type preemption int

const (
	mayPreempt   preemption = iota // it does not tell
	preempts                       // full or lazy
	neverPreempt                   // none or voluntary
)

// preemptionHere is that of this kernel.
func preemptionHere() preemption {
	mode, err := os.ReadFile("/sys/kernel/debug/sched/preempt")
	if err != nil {
		mode = nil
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		cmdline = nil
	}
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return mayPreempt
	}
	version, release := unix.ByteSliceToString(name.Version[:]), unix.ByteSliceToString(name.Release[:])
	return preemptionOf(string(mode), string(cmdline), version, func() []byte { return kernelConfig(release) })
}

// preemptionOf tells from debugfs, if that is there, what it is now; from the command
// line what it was at boot; from the version (uname -v) of a kernel that is of one kind;
// and of one that can be either, from how it was built.
func preemptionOf(mode, cmdline, version string, config func() []byte) preemption {
	of := func(mode string) preemption {
		switch mode {
		case "full", "lazy":
			return preempts
		case "none", "voluntary":
			return neverPreempt
		}
		return mayPreempt
	}
	if _, rest, ok := strings.Cut(mode, "("); ok {
		now, _, _ := strings.Cut(rest, ")")
		return of(now)
	}
	for _, word := range strings.Fields(cmdline) {
		if mode, ok := strings.CutPrefix(word, "preempt="); ok {
			return of(mode)
		}
	}
	switch {
	case !strings.Contains(version, "PREEMPT"):
		return neverPreempt
	case !strings.Contains(version, "PREEMPT_DYNAMIC"):
		return preempts
	}
	for line := range bytes.Lines(config()) {
		switch string(bytes.TrimSpace(line)) {
		case "CONFIG_PREEMPT_NONE=y", "CONFIG_PREEMPT_VOLUNTARY=y":
			return neverPreempt
		case "CONFIG_PREEMPT=y", "CONFIG_PREEMPT_LAZY=y":
			return preempts
		}
	}
	return mayPreempt
}

// kernelConfig is how the kernel of this release was built; nil: not told.
func kernelConfig(release string) []byte {
	if f, err := os.Open("/proc/config.gz"); err == nil {
		defer f.Close() //nolint:errcheck // only read
		if z, err := gzip.NewReader(f); err == nil {
			if text, err := io.ReadAll(z); err == nil {
				return text
			}
		}
	}
	text, err := os.ReadFile("/boot/config-" + release)
	if err != nil {
		return nil
	}
	return text
}
