package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// group is a cgroup of its own for the programs under test, so that weft
// selects them and nothing else on the machine.
type group struct {
	t    *testing.T
	dir  string
	name string
	fd   *os.File
	wrap []string // a command to start programs by, such as setpriv
	env  []string // further environment of programs
}

var groups atomic.Int64

func newGroup(t *testing.T) *group {
	t.Helper()
	need(t, "root", rootUser())
	mount, err := cgroupMount()
	need(t, "cgroup2", err)
	g := &group{t: t, name: fmt.Sprintf("weft-e2e-%d-%d", os.Getpid(), groups.Add(1))}
	g.dir = filepath.Join(mount, g.name)
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Fatalf("create cgroup: %v", err)
	}
	if g.fd, err = os.Open(g.dir); err != nil {
		t.Fatalf("open cgroup: %v", err)
	}
	t.Cleanup(g.remove)
	return g
}

// remove kills what is left in the group, by pid, and removes it.
func (g *group) remove() {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
		if err != nil {
			g.t.Errorf("read cgroup: %v", err)
			return
		}
		pids := strings.Fields(string(text))
		for _, p := range pids {
			if pid, err := strconv.Atoi(p); err == nil && pid > 1 {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
			}
		}
		if err := os.Remove(g.dir); err == nil {
			break
		} else if time.Now().After(deadline) {
			g.t.Errorf("remove cgroup: %v", err)
			break
		}
	}
	_ = g.fd.Close()
}

// output collects what a program prints, for the test to show if it fails.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// tail is the end of it, short enough for a test log.
func (o *output) tail() string {
	const most = 4000
	s := o.String()
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return s
}

// program is a process under test.
type program struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	out    *output
	ended  chan struct{}
	err    error // how it ended; read after ended
	wanted atomic.Bool
}

// cleanEnv is what a program gets besides its own settings: nothing of the
// test's.
func cleanEnv(env ...string) []string {
	return append([]string{
		"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/root", "LANG=C.UTF-8", "NO_PROXY=*",
	}, env...)
}

type launch struct {
	env   []string
	stdin io.Reader
	argv  []string
	dir   string               // where it runs; "": a folder of its own
	attr  *syscall.SysProcAttr // what else it starts with; its cgroup is set here
}

// start runs a program in the group. Its output is shown if the test fails.
func (g *group) start(name string, l launch, stdout io.Writer) *program {
	g.t.Helper()
	p := &program{t: g.t, name: name, out: &output{}, ended: make(chan struct{})}
	l.argv = slices.Concat(g.wrap, l.argv)
	p.cmd = exec.Command(l.argv[0], l.argv[1:]...)
	p.cmd.Env = cleanEnv(slices.Concat(g.env, l.env)...)
	p.cmd.Stdin = l.stdin
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if stdout != nil {
		p.cmd.Stdout = stdout
	}
	if p.cmd.Dir = l.dir; l.dir == "" {
		p.cmd.Dir = g.t.TempDir()
	}
	if p.cmd.SysProcAttr = l.attr; l.attr == nil {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	p.cmd.SysProcAttr.UseCgroupFD, p.cmd.SysProcAttr.CgroupFD = true, int(g.fd.Fd())
	p.run()
	return p
}

func (p *program) run() {
	p.t.Helper()
	// Children may outlive a killed program and hold its output open.
	p.cmd.WaitDelay = 200 * time.Millisecond
	if err := p.cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	p.t.Cleanup(func() {
		if !p.wanted.Load() {
			select {
			case <-p.ended:
				p.t.Errorf("%s ended by itself: %v", p.name, p.err)
			default:
			}
		}
		p.kill()
		if p.t.Failed() {
			p.t.Logf("output of %s:\n%s", p.name, p.out.tail())
		}
	})
}

// kill ends the program now.
func (p *program) kill() {
	p.wanted.Store(true)
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// wait lets the program end by itself.
func (p *program) wait(limit time.Duration) error {
	p.wanted.Store(true)
	select {
	case <-p.ended:
		return p.err
	case <-time.After(limit):
		p.kill()
		return fmt.Errorf("%s did not end within %v", p.name, limit)
	}
}

// ready waits until GET /ready on the port is answered.
func (p *program) ready(port int) {
	p.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	p.until(func() error {
		resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/ready", port))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

// listens waits until the address takes connections.
func (p *program) listens(address string) {
	p.t.Helper()
	p.until(func() error {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

func (p *program) until(check func() error) {
	p.t.Helper()
	for deadline := time.Now().Add(patience(p.t, time.Minute)); ; time.Sleep(20 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-p.ended:
			p.t.Fatalf("%s ended at start: %v\n%s", p.name, p.err, p.out.tail())
		default:
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s is not ready: %v\n%s", p.name, err, p.out.tail())
		}
	}
}
