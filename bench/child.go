package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"weft/loader"
)

// Roles that this program plays in processes of its own.
const (
	roleServer = "server"
	roleClient = "client"
	roleSink   = "sink"
	roleRelay  = "relay"
)

// child is this program in another role. It answers every line of JSON on its
// input with one on its output and ends with its input: asking over a pipe puts
// no request on the wire that would be traced.
type child struct {
	role string
	cmd  *exec.Cmd
	in   io.WriteCloser
	ask  *json.Encoder
	hear *json.Decoder
}

// startChild runs a role, in a cgroup unless that is nil.
func startChild(ctx context.Context, role string, g *cgroup) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own executable: %w", err)
	}
	c := &child{role: role, cmd: exec.CommandContext(ctx, self, role)}
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if g != nil {
		c.cmd.SysProcAttr.UseCgroupFD, c.cmd.SysProcAttr.CgroupFD = true, int(g.dir.Fd())
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	c.ask, c.hear = json.NewEncoder(c.in), json.NewDecoder(out)
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	return c, nil
}

// request asks and waits for the answer.
func (c *child) request(question, answer any) error {
	if err := c.ask.Encode(question); err != nil {
		return fmt.Errorf("ask the %s: %w", c.role, err)
	}
	if err := c.hear.Decode(answer); err != nil {
		return fmt.Errorf("hear from the %s: %w", c.role, err)
	}
	return nil
}

func (c *child) stop() error {
	err := c.in.Close()
	if werr := c.cmd.Wait(); werr != nil {
		err = errors.Join(err, fmt.Errorf("%s: %w", c.role, werr))
	}
	return err
}

// answer is the other end: it calls reply for every question until input ends.
func answer[Q, A any](in io.Reader, out io.Writer, reply func(Q) (A, error)) error {
	questions, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var q Q
		if err := questions.Decode(&q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read question: %w", err)
		}
		a, err := reply(q)
		if err != nil {
			return err
		}
		if err := answers.Encode(a); err != nil {
			return fmt.Errorf("write answer: %w", err)
		}
	}
}

// cgroup holds processes that are traced together and nothing else.
type cgroup struct {
	name string
	path string
	dir  *os.File
}

func newCgroup(of string) (*cgroup, error) {
	mount, err := loader.Cgroup2Mount()
	if err != nil {
		return nil, err
	}
	g := &cgroup{name: "weft-bench-" + of + "-" + strconv.Itoa(os.Getpid())}
	g.path = filepath.Join(mount, g.name)
	if err := os.Mkdir(g.path, 0o755); err != nil {
		return nil, fmt.Errorf("make a cgroup for the %s: %w", of, err)
	}
	if g.dir, err = os.Open(g.path); err != nil {
		return nil, fmt.Errorf("open cgroup: %w", errors.Join(err, os.Remove(g.path)))
	}
	return g, nil
}

// remove waits for the processes inside, which were told to end.
func (g *cgroup) remove() error {
	err := g.dir.Close()
	for range 100 {
		rerr := os.Remove(g.path)
		if rerr == nil {
			return err
		}
		if !errors.Is(rerr, syscall.EBUSY) {
			return errors.Join(err, rerr)
		}
		time.Sleep(20 * time.Millisecond)
	}
	pids, _ := os.ReadFile(filepath.Join(g.path, "cgroup.procs")) // for the message only
	return errors.Join(err, fmt.Errorf("remove cgroup %s: processes are left: %s", g.path, strings.Fields(string(pids))))
}
