package kube

import "strings"

// Cgroup is what the path of a cgroup says by itself.
type Cgroup struct {
	PodUID      string // as in the API, or the config hash of a static pod; "" outside pods
	ContainerID string // 64 hexadecimal digits; "" outside containers
}

// ParseCgroup reads a path of /proc/PID/cgroup, of any hierarchy. Paths seen from
// within another cgroup namespace ("/../../kubepods/…") read the same: only the
// names count. In a pod the container is the one that kubelet started, whatever
// runs inside it; elsewhere it is the innermost.
func ParseCgroup(path string) Cgroup {
	var c Cgroup
	for segment := range strings.FieldsFuncSeq(path, func(r rune) bool {
		return r == '/' || r == ':' // "…-pod<uid>.slice:cri-containerd:<id>": containerd without its systemd driver
	}) {
		if uid, ok := podUID(segment); ok {
			c = Cgroup{PodUID: uid}
			continue
		}
		if c.PodUID != "" && c.ContainerID != "" {
			continue
		}
		if id, ok := containerID(segment); ok {
			c.ContainerID = id
		}
	}
	return c
}

// podUID reads "pod<uid>", as kubelet's cgroupfs driver has it, and its systemd
// driver's "kubepods-burstable-pod<uid, - as _>.slice", which some runtimes, told
// to use the other driver, take for a folder's name.
func podUID(segment string) (string, bool) {
	name := strings.TrimSuffix(segment, ".slice")
	i := strings.LastIndex(name, "pod")
	if i < 0 || i > 0 && name[i-1] != '-' {
		return "", false
	}
	name = name[i+len("pod"):]
	switch len(name) {
	case 32: // the config hash of a static pod
		return name, isHex(name)
	case 36:
		name = strings.ReplaceAll(name, "_", "-")
		parts := name[:8] + name[9:13] + name[14:18] + name[19:23] + name[24:]
		return name, name[8] == '-' && name[13] == '-' && name[18] == '-' && name[23] == '-' && isHex(parts)
	}
	return "", false
}

// containerID reads "<id>", "crio-<id>", "cri-containerd-<id>.scope".
func containerID(segment string) (string, bool) {
	name := strings.TrimSuffix(segment, ".scope")
	i := len(name) - 64
	if i < 0 || i > 0 && name[i-1] != '-' || !isHex(name[i:]) {
		return "", false
	}
	// conmon watches a container from outside it.
	return name[i:], !strings.HasSuffix(name[:i], "conmon-")
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// inContainer says whether a container's process is meant: kubelet's and conmon's
// helpers live in a pod's cgroup too.
func (c Cgroup) inContainer() bool { return c.ContainerID != "" }
