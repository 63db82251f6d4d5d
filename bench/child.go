package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// Roles that this program plays in processes of its own.
const (
	roleServer     = "server"
	roleClient     = "client"
	roleSink       = "sink"
	roleRelay      = "relay"
	roleHop        = "hop"
	roleGRPCServer = "grpc-server"
	roleGRPCHop    = "grpc-hop"
	roleTrapped    = "trapped"
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

// startChild runs a role in a cgroup.
func startChild(ctx context.Context, role string, g *cgroup) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own executable: %w", err)
	}
	c := &child{role: role, cmd: exec.CommandContext(ctx, self, role)}
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = g.attributes()
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
