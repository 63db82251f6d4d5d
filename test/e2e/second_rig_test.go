package e2e

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/test/e2e/otlpsink"
)

// island is a cgroup namespace of its own, where agents take their place on the
// host from nobody but each other.
type island struct {
	t     *testing.T
	outer *group // the namespace's root
	crew  *group // where agents run
	apps  *group // where programs run
}

func newIsland(t *testing.T) *island {
	t.Helper()
	i := &island{t: t, outer: newGroup(t)}
	i.crew, i.apps = i.outer.below("crew"), i.outer.below("apps")
	return i
}

// below makes a group in the group.
func (g *group) below(name string) *group {
	g.t.Helper()
	in := &group{t: g.t, name: g.name + "/" + name, dir: filepath.Join(g.dir, name)}
	err := os.Mkdir(in.dir, 0o755)
	if err == nil {
		in.fd, err = os.Open(in.dir)
	}
	if err != nil {
		g.t.Fatalf("create cgroup: %v", err)
	}
	g.t.Cleanup(in.remove)
	return in
}

// inside runs what stands behind it in the island: it becomes "$@".
const inside = `
umount "$1" && mount -t cgroup2 none "$1" && echo $$ >"$1/crew/cgroup.procs" || exit 70
shift
exec "$@"`

// start runs a program in the island, beside the agents.
func (i *island) start(name string, argv ...string) *program {
	i.t.Helper()
	unshare, err := tool("unshare", "util-linux")
	need(i.t, "unshare", err)
	mount, err := cgroupMount()
	need(i.t, "cgroup2", err)
	var env []string
	if way := os.Getenv("WEFT_CAPTURE"); way != "" {
		env = append(env, "WEFT_CAPTURE="+way)
	}
	return i.outer.start(name, launch{env: env, argv: append([]string{unshare, "--cgroup", "--mount", "sh", "-c", inside, "sh", mount}, argv...)}, nil)
}

// islandOptions change what an agent of the island is given.
type islandOptions struct {
	targets   string // YAML list; default: the programs of the island
	telemetry string // host:port; default: one of its own
	extra     string // further YAML
	flags     []string
}

// agent runs weft in the island.
func (i *island) agent(sink *otlpsink.Sink, o islandOptions) *agent {
	i.t.Helper()
	if o.targets == "" {
		o.targets = "[{cgroup: /apps}]"
	}
	if o.telemetry == "" {
		o.telemetry = fmt.Sprintf("127.0.0.1:%d", freePort(i.t))
	}
	config := writeConfig(i.t, fmt.Sprintf("targets: %s\nexport: {otlp: {endpoint: %q}}\ntelemetry: {listen: %q}\n%s",
		o.targets, "http://"+sink.GRPC, o.telemetry, o.extra))
	argv := append([]string{weftBin(i.t), "run", "--config", config}, o.flags...)
	return &agent{program: i.start("weft "+strings.Join(o.flags, " "), argv...), telemetry: o.telemetry}
}

// traces waits until the agent traces.
func (a *agent) traces() {
	a.t.Helper()
	a.until(func() error {
		if !strings.Contains(a.out.String(), `msg="weft is tracing"`) {
			return fmt.Errorf("it has not said that it traces")
		}
		return a.get("/readyz", io.Discard)
	})
}

// standsBy waits until the agent is ready to take over.
func (a *agent) standsBy() {
	a.t.Helper()
	a.until(func() error {
		if !strings.Contains(a.out.String(), `msg="weft stands by"`) {
			return fmt.Errorf("it has not said that it stands by")
		}
		return nil
	})
}
