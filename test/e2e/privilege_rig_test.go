package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/privilege"
	"weft/test/apps/rawhttp/script"
	"weft/test/e2e/truth"
)

// nobody is the user of the programs under test where weft runs as another.
const nobody = 65534

// confine takes all capabilities but those from what this test, which must be one
// of its own, starts from here on: a program that root executes gets what the
// bounding set of its thread leaves. The thread ends with the test.
func confine(t *testing.T, keep ...privilege.Capability) {
	t.Helper()
	need(t, "root", rootUser())
	runtime.LockOSThread()
	for c := privilege.Capability(0); c <= 63; c++ {
		if slices.Contains(keep, c) {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: the kernel knows no more
			t.Fatalf("drop %v: %v", c, err)
		}
	}
}

// without is a set of capabilities but one.
func without(set []privilege.Capability, c privilege.Capability) []privilege.Capability {
	return slices.DeleteFunc(slices.Clone(set), func(other privilege.Capability) bool { return other == c })
}

// public lets every user into the test's folders, where its programs are.
func public(t *testing.T) {
	t.Helper()
	for dir := t.TempDir(); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// strangers are a raw client and server of another user than weft's, who have named
// themselves.
type strangers struct {
	*rig
	g    *group
	port string // of the server
}

func newStrangers(t *testing.T) *strangers {
	t.Helper()
	setpriv, err := tool("setpriv", "util-linux")
	need(t, "setpriv", err)
	public(t)
	s := &strangers{rig: &rig{sink: startSink(t)}, g: newGroup(t)}
	s.g.wrap = []string{setpriv, fmt.Sprintf("--reuid=%d", nobody), fmt.Sprintf("--regid=%d", nobody), "--clear-groups", "--"}
	s.g.env = []string{"OTEL_SERVICE_NAME=told"}
	s.addr, s.addr6 = startRawServer(t, s.g)
	s.port = s.addr[strings.LastIndexByte(s.addr, ':')+1:]
	s.client = startRawClient(t, s.g)
	return s
}

// send makes one request, on a new connection to connect, or the open one if that is
// "", and returns the traceparent lines that arrived. Every byte else must be right.
func (s *strangers) send(t *testing.T, connect string) []string {
	t.Helper()
	x := s.ask("POST", "/leaf", "body")
	got := s.client.do(t, script.Step{Connect: connect, NonBlocking: connect != "", Send: x.bytes(), Reads: make([]script.Read, 1)}).Got
	return x.exact(t, got[0])
}

// effects are what an agent did for strangers.
type effects struct {
	ready    string // what /readyz says beside 200; "": that
	oldWire  bool   // the connection that is older than weft carries context
	newWire  bool   // one opened afterwards does
	client   string // service.name in the spans of the client; "": there are none
	server   string // of the server
	messages string // the log
}

// agentFor starts weft in the confines of this test, and selects the server by its
// port, under the name "by-port", the client by its cgroup.
func (s *strangers) agentFor(t *testing.T) *agent {
	t.Helper()
	telemetry := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	config := writeConfig(t, fmt.Sprintf("targets: [{port: %q, name: by-port}, {cgroup: %q}]\nexport: {otlp: {endpoint: %q}}\ntelemetry: {listen: %q}\n",
		s.port, "*/"+s.g.name, "http://"+s.sink.GRPC, telemetry))
	if err := os.Chmod(config, 0o644); err != nil {
		t.Fatal(err)
	}
	return &agent{program: weft(t, "run", "--force", "--config", config), telemetry: telemetry}
}

// observe opens a connection, starts the agent, waits until it has looked at all
// processes, sends over that connection and a new one, and ends the agent.
func (s *strangers) observe(t *testing.T, a *agent) effects {
	t.Helper()
	if lines := s.send(t, s.addr); len(lines) != 0 {
		t.Fatalf("traceparent %q without weft", lines)
	}
	a.run()
	var o effects
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	a.until(func() error {
		resp, err := client.Get("http://" + a.telemetry + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		o.ready = strings.TrimSpace(string(body))
		if err == nil && (o.ready == "starting" || strings.HasPrefix(o.ready, "attaching to Go programs")) {
			err = errors.New(o.ready)
		}
		if resp.StatusCode == http.StatusOK {
			o.ready = ""
		}
		return err
	})
	s.sink.Take()
	for range 5 { // the first request of an adopted connection only finds its boundary
		o.oldWire = len(s.send(t, "")) > 0 || o.oldWire
	}
	last := s.serial + 1
	o.newWire = len(s.send(t, s.addr)) > 0
	wait := time.Second // none is expected
	if o.ready == "" || o.newWire {
		wait = 8 * time.Second
	}
	for deadline := time.Now().Add(patience(t, wait)); (o.client == "" || o.server == "") && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for _, span := range s.sink.Take() {
			if span.ID() != fmt.Sprintf("raw-%d", last) {
				continue
			}
			if span.Kind == truth.Client {
				o.client = span.Service
			} else {
				o.server = span.Service
			}
		}
	}
	a.stop()
	o.messages = a.out.String()
	return o
}

// doctorRow is a row of `weft doctor --json`.
type doctorRow struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Why    string `json:"why"`
	Effect string `json:"effect"`
	Mend   string `json:"mend"`
}

// askDoctor runs `weft doctor --json` in the confines of this test; each edit may
// change how it starts.
func askDoctor(t *testing.T, edits ...func(*program)) (status int, rows map[string]doctorRow) {
	t.Helper()
	p := weft(t, "doctor", "--json")
	for _, edit := range edits {
		edit(p)
	}
	var stdout output
	p.cmd.Stdout = &stdout
	p.run()
	var exit *exec.ExitError
	if err := p.wait(patience(t, 5*time.Minute)); err != nil && !errors.As(err, &exit) {
		t.Fatalf("weft doctor: %v\n%s", err, p.out.tail())
	}
	var v struct {
		Capabilities []doctorRow `json:"capabilities"`
	}
	if err := json.Unmarshal([]byte(stdout.String()), &v); err != nil {
		t.Fatalf("doctor --json: %v\n%s%s", err, stdout.String(), p.out.tail())
	}
	rows = map[string]doctorRow{}
	for _, r := range v.Capabilities {
		rows[r.Name] = r
	}
	return p.cmd.ProcessState.ExitCode(), rows
}

// asNobody starts a program as that user with those capabilities, which it gets
// although its file has none (ambient).
func asNobody(cmd *exec.Cmd, held []privilege.Capability) {
	attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	for _, c := range held {
		attr.AmbientCaps = append(attr.AmbientCaps, uintptr(c))
	}
	cmd.SysProcAttr = attr
}
