package loader

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/prometheus/procfs"
)

// ErrNoCgroup2 says that no cgroup v2 hierarchy is mounted.
var ErrNoCgroup2 = errors.New("no cgroup v2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified")

// Cgroup2Mount is where cgroup v2 is mounted.
func Cgroup2Mount() (string, error) {
	mounts, err := procfs.GetMounts()
	if err != nil {
		return "", fmt.Errorf("read /proc/self/mountinfo: %w", err)
	}
	for _, m := range mounts {
		if m.FSType == "cgroup2" {
			return m.MountPoint, nil
		}
	}
	return "", ErrNoCgroup2
}

// cgroups keeps the sockops program attached to the cgroups of selected
// processes, and to no other.
type cgroups struct {
	mount    string
	program  *ebpf.Program
	attached map[string]*cgroupUse
}

type cgroupUse struct {
	link link.Link
	pids map[uint32]bool
}

func newCgroups(program *ebpf.Program) (*cgroups, error) {
	mount, err := Cgroup2Mount()
	if err != nil {
		return nil, err
	}
	return &cgroups{mount: mount, program: program, attached: map[string]*cgroupUse{}}, nil
}

// add attaches to the process's cgroup unless that is done already.
func (c *cgroups) add(pid uint32, path string) error {
	use := c.attached[path]
	if use == nil {
		l, err := link.AttachCgroup(link.CgroupOptions{
			Path:    filepath.Join(c.mount, path),
			Attach:  ebpf.AttachCGroupSockOps,
			Program: c.program,
		})
		if err != nil {
			return fmt.Errorf("attach to cgroup %s: %w", path, err)
		}
		use = &cgroupUse{link: l, pids: map[uint32]bool{}}
		c.attached[path] = use
	}
	use.pids[pid] = true
	return nil
}

// remove forgets a process; its cgroup is let go with the last one.
func (c *cgroups) remove(pid uint32, path string) error {
	use := c.attached[path]
	if use == nil {
		return nil
	}
	delete(use.pids, pid)
	if len(use.pids) > 0 {
		return nil
	}
	delete(c.attached, path)
	return use.link.Close()
}

func (c *cgroups) close() error {
	var errs []error
	for path, use := range c.attached {
		errs = append(errs, use.link.Close())
		delete(c.attached, path)
	}
	return errors.Join(errs...)
}
