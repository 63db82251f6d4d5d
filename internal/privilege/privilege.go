// Package privilege knows the Linux capabilities that weft uses: which of them this
// process holds, what each is for, and what is lost without it. It is a leaf.
// docs/security.md tables the same, and a test holds the two together.
package privilege

import (
	"fmt"
	"math/bits"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Capability is a number of linux/capability.h.
type Capability uint

// The capabilities that weft has a use for.
const (
	DACOverride   Capability = unix.CAP_DAC_OVERRIDE
	DACReadSearch Capability = unix.CAP_DAC_READ_SEARCH
	NetAdmin      Capability = unix.CAP_NET_ADMIN
	SysPtrace     Capability = unix.CAP_SYS_PTRACE
	SysAdmin      Capability = unix.CAP_SYS_ADMIN
	SysResource   Capability = unix.CAP_SYS_RESOURCE
	Perfmon       Capability = unix.CAP_PERFMON
	BPF           Capability = unix.CAP_BPF
)

var names = map[Capability]string{
	DACOverride: "CAP_DAC_OVERRIDE", DACReadSearch: "CAP_DAC_READ_SEARCH", NetAdmin: "CAP_NET_ADMIN",
	SysPtrace: "CAP_SYS_PTRACE", SysAdmin: "CAP_SYS_ADMIN", SysResource: "CAP_SYS_RESOURCE",
	Perfmon: "CAP_PERFMON", BPF: "CAP_BPF",
}

// String is the name in linux/capability.h, for those that weft has a use for.
func (c Capability) String() string {
	if name, ok := names[c]; ok {
		return name
	}
	return fmt.Sprintf("capability %d", uint(c))
}

// Set is a set of capabilities, as in /proc/PID/status.
type Set uint64

// SetOf is the set of those capabilities.
func SetOf(of ...Capability) (s Set) {
	for _, c := range of {
		s |= 1 << c
	}
	return s
}

// Has says whether the set holds a capability.
func (s Set) Has(c Capability) bool { return s>>c&1 == 1 }

// Len is the number of capabilities in the set.
func (s Set) Len() int { return bits.OnesCount64(uint64(s)) }

// Effective is what this process may do now (capget(2)).
func Effective() (Set, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("ask for own capabilities: %w", err)
	}
	return Set(data[1].Effective)<<32 | Set(data[0].Effective), nil
}

// initialUserNamespace is the inode of the host's user namespace
// (PROC_USER_INIT_INO).
const initialUserNamespace = "user:[4026531837]"

// UserNamespace is the user namespace of this process if it is not the host's, ""
// if it is: in any other the kernel does not accept capabilities for BPF. Where
// /proc does not tell it is taken for the host's.
func UserNamespace() string {
	ns, err := os.Readlink("/proc/self/ns/user")
	if err != nil || ns == initialUserNamespace {
		return ""
	}
	return ns
}

// Use is why weft wants a capability.
type Use struct {
	Capability Capability
	// Also are capabilities that the kernel accepts in its place.
	Also []Capability
	// Required: without it weft does not start.
	Required bool
	// For is what it does with it, Without what is lost for want of it.
	For, Without string
}

// Held says whether a set is enough for this use.
func (u *Use) Held(s Set) bool {
	if s.Has(u.Capability) {
		return true
	}
	for _, c := range u.Also {
		if s.Has(c) {
			return true
		}
	}
	return false
}

// Uses are all uses, the required ones first.
func Uses() []Use {
	admin := []Capability{SysAdmin}
	return []Use{
		{Capability: BPF, Also: admin, Required: true,
			For: "loads programs and creates maps", Without: "weft does not start"},
		{Capability: Perfmon, Also: admin, Required: true,
			For: "lets programs read kernel memory, and attaches them to tracepoints and probes", Without: "weft does not start"},
		{Capability: NetAdmin, Also: admin,
			For: "writes context into departing requests: sk_msg, sockops", Without: "requests are observed but not edited"},
		{Capability: SysPtrace,
			For:     "reads whose processes are whose in /proc, and takes over connections older than weft",
			Without: "processes of other users, or with capabilities that weft lacks, are not traced"},
		{Capability: DACReadSearch, Also: []Capability{DACOverride},
			For:     "reads environment and descriptors of other users' processes",
			Without: "other users' processes: OTEL_* variables are not read, `port` does not match, connections older than weft carry no context"},
	}
}

// Lacking are the uses that a set is not enough for.
func Lacking(s Set) []Use {
	var out []Use
	for _, u := range Uses() {
		if !u.Held(s) {
			out = append(out, u)
		}
	}
	return out
}

// All are the names of the capabilities that leave nothing to be wished for, as
// setcap(8) takes them.
func All() string {
	var out []string
	for _, u := range Uses() {
		out = append(out, strings.ToLower(u.Capability.String()))
	}
	return strings.Join(out, ",")
}

// MissingError says that this process may not trace.
type MissingError struct {
	Missing []Capability
	// Namespace is the user namespace that makes capabilities worthless, if that
	// is the cause.
	Namespace string
}

// Error is one line.
func (e *MissingError) Error() string {
	if e.Namespace != "" {
		return "in a user namespace (" + e.Namespace + "), whose capabilities the kernel does not accept for BPF; run it in the host's: hostUsers: true in Kubernetes, --userns=host with Docker"
	}
	var missing []string
	for _, c := range e.Missing {
		missing = append(missing, c.String())
	}
	return strings.Join(missing, " and ") + " missing; run it as root (sudo), or grant capabilities: setcap " + All() +
		"+ep weft, AmbientCapabilities= with systemd, securityContext.capabilities.add in Kubernetes"
}

// Require is a *MissingError if a process with that set of capabilities, in that
// user namespace ("": the host's), cannot trace at all.
func Require(s Set, namespace string) error {
	e := &MissingError{Namespace: namespace}
	for _, u := range Lacking(s) {
		if u.Required {
			e.Missing = append(e.Missing, u.Capability)
		}
	}
	if len(e.Missing) > 0 || namespace != "" {
		return e
	}
	return nil
}
