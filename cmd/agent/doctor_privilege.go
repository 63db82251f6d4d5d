package main

import (
	"fmt"
	"strings"

	"github.com/prometheus/procfs"

	"weft/internal/privilege"
)

const runAsRoot = "run it as root, or with CAP_BPF and CAP_PERFMON"

// privilegeRow says whether this process holds a capability, and what happens if it
// does not. A missing one that weft cannot start without blocks the rows behind it:
// what the kernel offers is not known then.
func (e *examination) privilegeRow(use privilege.Use) capability {
	c := capability{Name: strings.ToLower(use.Capability.String()), State: stateOK, Why: "held: " + use.For}
	switch {
	case e.namespace != "" && use.Held(e.held):
		c.State, c.Why = stateMissing, "held in a user namespace ("+e.namespace+"), where the kernel does not accept it for BPF"
		c.Mend = "run in the host's user namespace: hostUsers: true in Kubernetes, --userns=host with Docker"
	case !use.Held(e.held):
		c.State, c.Why = stateDegraded, "not held; it "+use.For
		if use.Required {
			c.State = stateMissing
		}
		c.Mend = "run as root, or grant " + use.Capability.String()
	case !e.held.Has(use.Capability):
		c.Why = fmt.Sprintf("held, by way of %s: %s", use.Also[0], use.For)
	}
	if c.State == stateOK {
		return c
	}
	c.Effect = use.Without
	if use.Required {
		if e.refused != "" {
			e.refused += " and "
		}
		e.refused += use.Capability.String()
	}
	return c
}

// bpfFileSystemRow informs: weft keeps nothing there.
func bpfFileSystemRow() capability {
	mounts, err := procfs.GetMounts()
	if err != nil {
		return row("bpf_fs", "", fmt.Errorf("read /proc/self/mountinfo: %w", err), "not known", "mount /proc")
	}
	return capability{Name: "bpf_fs", State: stateOK, Why: bpfFileSystem(mounts) + "; weft pins nothing there, so nothing depends on it"}
}

const readOnly = " is read-only"

// bpfFileSystem says how the topmost bpf file system is mounted.
func bpfFileSystem(mounts []*procfs.MountInfo) string {
	said := "no bpf file system is mounted"
	for _, m := range mounts {
		if m.FSType != "bpf" {
			continue
		}
		said = m.MountPoint + " is writable"
		_, mount := m.Options["ro"]
		_, super := m.SuperOptions["ro"]
		if mount || super {
			said = m.MountPoint + readOnly
		}
	}
	return said
}
