package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/procfs"
)

// namespaceRoot is the cgroup in which weft's cgroup namespace begins, as a path
// below the mount: "/" on the host. In a pod with the host's hierarchy mounted it
// is the container's, and /proc/PID/cgroup tells paths from there
// ("/../../kubepods-…"). A namespace's root never changes, so it is looked for
// once, and only when a path is to be translated.
var namespaceRoot = sync.OnceValues(func() (string, error) {
	mount, err := Cgroup2Mount()
	if err != nil {
		return "", err
	}
	return findNamespaceRoot(mount)
})

// hostCgroup makes a path of /proc/PID/cgroup one below the mount, so that it
// names the same folder, and matches the same globs, as outside the namespace.
// It returns path as it is where that cannot be done.
func hostCgroup(path string) string {
	root, err := namespaceRoot()
	if err != nil || root == "/" {
		return path
	}
	return filepath.Join(root, path)
}

// errNoOwnCgroup says that the mounted hierarchy does not hold weft itself.
var errNoOwnCgroup = errors.New("weft's own cgroup is not in the cgroup v2 hierarchy that it sees; mount the host's /sys/fs/cgroup")

// findNamespaceRoot looks for the one cgroup below mount that this process is in.
// Nothing tells its path from within the namespace: its folder does, by holding
// this process.
func findNamespaceRoot(mount string) (string, error) {
	self, err := procfs.Self()
	if err != nil {
		return "", fmt.Errorf("open /proc/self: %w", err)
	}
	groups, err := self.Cgroups()
	if err != nil {
		return "", fmt.Errorf("read /proc/self/cgroup: %w", err)
	}
	own := "/"
	for _, g := range groups {
		if g.HierarchyID == 0 { // v2
			own = g.Path
		}
	}
	if holds(filepath.Join(mount, own), self.PID) { // nothing to translate
		return "/", nil
	}
	found := ""
	err = filepath.WalkDir(mount, func(dir string, d fs.DirEntry, err error) error {
		switch {
		case err != nil: // removed meanwhile
			return nil //nolint:nilerr // another folder may be the one
		case !d.IsDir():
			return nil
		case !holds(dir, self.PID):
			return nil
		}
		found = dir
		return fs.SkipAll
	})
	if err != nil {
		return "", fmt.Errorf("look for weft's own cgroup: %w", err)
	}
	root, ok := strings.CutSuffix(strings.TrimPrefix(found, mount), strings.TrimSuffix(own, "/"))
	if found == "" || !ok {
		return "", errNoOwnCgroup
	}
	return filepath.Join("/", root), nil
}

// holds says whether a process is in the cgroup of that folder.
func holds(dir string, pid int) bool {
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(procs)) {
		if strings.TrimSpace(line) == strconv.Itoa(pid) {
			return true
		}
	}
	return false
}
