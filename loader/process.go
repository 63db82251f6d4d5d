package loader

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"

	"weft/internal/event"
)

// process is what /proc says about one process now.
type process struct {
	pid    uint32
	start  uint64 // start_boottime, ns
	exe    string
	args   []string
	cgroup string
	env    map[string]string // the OTEL_* variables only
}

// clockTick is the unit of /proc/PID/stat times; USER_HZ is 100 on every Linux
// architecture Go supports.
const clockTick = 1e9 / 100

// What a program says of itself, and how much of it is believed: bytes of each
// variable, and pairs in the second.
const (
	envService       = "OTEL_SERVICE_NAME"
	envResource      = "OTEL_RESOURCE_ATTRIBUTES"
	maxOwnText       = 8 << 10
	maxOwnAttributes = 64
)

// readProcess reads /proc/PID. Kernel threads and processes that are gone return
// an error wrapping os.ErrNotExist.
func readProcess(pid uint32) (*process, error) {
	p, err := procfs.NewProc(int(pid))
	if err != nil {
		return nil, fmt.Errorf("open /proc/%d: %w", pid, err)
	}
	exe, err := p.Executable()
	if err != nil || exe == "" {
		return nil, fmt.Errorf("read executable of %d: %w", pid, errors.Join(err, os.ErrNotExist))
	}
	// A binary replaced on disk keeps its name for matching.
	exe = strings.TrimSuffix(exe, " (deleted)")
	args, err := p.CmdLine()
	if err != nil {
		return nil, fmt.Errorf("read command line of %d: %w", pid, err)
	}
	stat, err := p.Stat()
	if err != nil {
		return nil, fmt.Errorf("read start of %d: %w", pid, err)
	}
	out := &process{pid: pid, start: stat.Starttime * clockTick, exe: exe, args: args, env: map[string]string{}}
	if groups, err := p.Cgroups(); err == nil {
		for _, g := range groups {
			if g.HierarchyID == 0 { // v2
				out.cgroup = hostCgroup(g.Path)
			}
		}
	}
	if env, err := p.Environ(); err == nil {
		for _, kv := range env {
			if k, v, ok := strings.Cut(kv, "="); ok && (k == envService || k == envResource) {
				// A copy: the rest of the environment, up to 1 MiB, may go.
				out.env[k] = strings.Clone(upTo(v, maxOwnText))
			}
		}
	}
	return out, nil
}

// migrates says whether the program's runtime moves work between threads, so that
// a thread does not stand for a request: Go's does. Others are found out by the
// kernel programs when a response leaves from another thread than the one that
// read its request.
func (p *process) migrates() bool {
	file, err := os.Open(filepath.Join("/proc", strconv.Itoa(int(p.pid)), "exe"))
	if err != nil {
		return false // gone
	}
	defer file.Close() //nolint:errcheck // read only
	f, err := elf.NewFile(&bounded{file, maxHeaders})
	if err != nil {
		return false // not an ELF file, or none that a compiler wrote
	}
	return f.Section(".go.buildinfo") != nil || f.Section(".gopclntab") != nil
}

// targetFlags are the flags of its entry in the targets map.
func (p *process) targetFlags() uint32 {
	if p.migrates() {
		return uint32(WeftWeftTargetFlagWEFT_TARGET_MIGRATES | WeftWeftTargetFlagWEFT_TARGET_GO)
	}
	return 0
}

// describe resolves service.name: the configured name, the program's own
// OTEL_SERVICE_NAME, its OTEL_RESOURCE_ATTRIBUTES, that of what it runs in (see
// Options.Attributes), its executable.
func (p *process) describe(configured string, start uint64, around map[string]string) *event.Process {
	own := parseResource(p.env[envResource])
	service := configured
	for _, s := range []string{p.env[envService], own["service.name"], around["service.name"], filepath.Base(p.exe)} {
		if service == "" {
			service = s
		}
	}
	resource := around
	if resource == nil {
		resource = map[string]string{}
	}
	maps.Copy(resource, own)
	delete(resource, "service.name")
	// Of this boot of this host: in a pod the host's name is the pod's, and another
	// after each update of weft.
	host, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // only makes the id unlike another host's
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d/%d", host, p.pid, start))
	return &event.Process{
		PID:             p.pid,
		PIDStart:        start,
		Service:         service,
		ServiceInstance: hex.EncodeToString(sum[:16]),
		Exe:             p.exe,
		Cgroup:          p.cgroup,
		Resource:        resource,
	}
}

// upTo is text of at most that many bytes, cut where a pair ends.
func upTo(s string, most int) string {
	if len(s) <= most {
		return s
	}
	s = s[:most]
	return s[:max(strings.LastIndexByte(s, ','), 0)]
}

// parseResource reads OTEL_RESOURCE_ATTRIBUTES (OpenTelemetry resource SDK:
// key=value pairs, comma separated, percent-encoded). As there, one malformed
// pair discards all. Pairs beyond maxOwnAttributes are left out: they go with
// every batch of the program's spans.
func parseResource(s string) map[string]string {
	out := map[string]string{}
	for pair := range strings.SplitSeq(s, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		k, v, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(v))
		if !ok || err != nil {
			return map[string]string{}
		}
		if len(out) < maxOwnAttributes {
			out[strings.TrimSpace(k)] = value
		}
	}
	return out
}

func joinArgs(args []string) string { return strings.Join(args, " ") }
