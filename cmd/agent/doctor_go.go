package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"weft/internal/privilege"
	"weft/loader/probe"
)

// goUprobesRow is about the way into Go programs. What a hit costs is measured at an
// instruction that the kernel emulates, as weft's are.
func (e *examination) goUprobesRow() capability {
	if c, ok := e.blocked(capGoUprobes); ok {
		return c
	}
	hit, multi := probe.UprobeMulti()
	if multi == nil {
		return capability{Name: capGoUprobes, State: stateOK, Why: "one uprobe_multi link a process; a hit costs " + cost(hit) + " here"}
	}
	const mend = "use Linux 6.10 or later, where uprobe_multi takes a process for all its threads"
	hit, perf := probe.Uprobe()
	if perf == nil {
		return capability{Name: capGoUprobes, State: stateDegraded,
			Why:    "by a perf event for each place in a binary; a hit costs " + cost(hit) + " here; no uprobe_multi: " + oneLine(multi),
			Effect: "taking weft out of Go programs takes about 0.1 s for each place; no request loses anything", Mend: mend}
	}
	missing := capability{Name: capGoUprobes, State: stateMissing, Why: oneLine(perf),
		Effect: "Go programs stay with the socket tier: plaintext HTTP/1, and parents by what is in flight in the whole process",
		Mend:   "use a kernel with CONFIG_UPROBE_EVENTS=y"}
	if !e.held.Has(privilege.SysAdmin) {
		missing.Mend += "; those of 2025 and later want CAP_SYS_ADMIN for uprobes by perf event"
	}
	return missing
}

// cost is a time of at most some microseconds.
func cost(d time.Duration) string {
	return fmt.Sprintf("%.1f µs", float64(d)/float64(time.Microsecond))
}

// goWritesRow is about bpf_probe_write_user. It believes the attempt; the lockdown
// file only adds the reason.
func (e *examination) goWritesRow() capability {
	mode, said := lockdown()
	without := capability{Name: capGoWrites, State: stateDegraded, Why: "the kernel refuses bpf_probe_write_user; " + said,
		Effect: "Go: plaintext requests are written by the socket tier; those inside TLS are observed only, and carry no context",
		Mend:   "end lockdown: Secure Boot off, or no lockdown= on the kernel command line; none needed without TLS"}
	if c, ok := e.blocked(capGoWrites); ok {
		if mode == "integrity" || mode == "confidentiality" {
			without.Why = said
			return without
		}
		c.Why += "; " + said
		return c
	}
	if !e.held.Has(privilege.SysAdmin) { // without it the helper does not exist, and lockdown is not told
		without.Why = "bpf_probe_write_user needs CAP_SYS_ADMIN, which is not held; " + said
		if mode == "" || mode == "none" {
			without.Mend = "grant CAP_SYS_ADMIN; none needed without TLS"
		}
		return without
	}
	switch isRefused, err := probe.WriteUser(); {
	case isRefused:
		return without
	case err != nil:
		return capability{Name: capGoWrites, State: stateUnknown, Why: "not tried: " + oneLine(err)}
	}
	return capability{Name: capGoWrites, State: stateOK, Why: "bpf_probe_write_user loads: context goes into a Go program's own buffers, TLS included; " + said}
}

// lockdown is the kernel's mode, "" where it does not say, and that in words.
func lockdown() (mode, said string) {
	b, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		return "", "there is no lockdown file"
	}
	if _, rest, ok := strings.Cut(string(b), "["); ok {
		mode, _, _ = strings.Cut(rest, "]")
	}
	return mode, "lockdown is " + mode
}
