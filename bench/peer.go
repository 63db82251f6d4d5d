package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// peer is another agent to be put beside weft: a shell command that is run before
// each of its loads and ended after it.
type peer struct {
	name    string
	command string // with {port}, {pids}, {cgroup} and {otlp}, see fill
	ready   string // http://…: a URL that answers 200; line:TEXT: it prints that; else a duration to wait
}

// peerWait is how long a peer gets to attach that does not say when it has.
const peerWait = 5 * time.Second

// parsePeer reads name=NAME:COMMAND.
func parsePeer(text string) (peer, error) {
	rest, ok := strings.CutPrefix(text, "name=")
	name, command, found := strings.Cut(rest, ":")
	if !ok || !found || name == "" || strings.TrimSpace(command) == "" || strings.ContainsAny(name, "|\n") {
		return peer{}, fmt.Errorf("-peer %q: want name=NAME:COMMAND, such as 'name=other:/opt/other --port {port}'", text)
	}
	return peer{name: name, command: strings.TrimSpace(command)}, nil
}

// parsePeerReady reads NAME=CONDITION into the peer of that name.
func parsePeerReady(text string, peers []peer) error {
	name, ready, ok := strings.Cut(text, "=")
	if !ok || ready == "" {
		return fmt.Errorf("-peer-ready %q: want NAME=http://HOST:PORT/PATH, NAME=line:TEXT or NAME=10s", text)
	}
	if !strings.HasPrefix(ready, "http://") && !strings.HasPrefix(ready, "line:") {
		if wait, err := time.ParseDuration(ready); err != nil || wait < 0 {
			return fmt.Errorf("-peer-ready %q: want a URL that begins with http://, line:TEXT, or a duration such as 10s", text)
		}
	}
	for i := range peers {
		if peers[i].name == name {
			peers[i].ready = ready
			return nil
		}
	}
	return fmt.Errorf("-peer-ready %q: no -peer name=%s: before it", text, name)
}

// fill puts in what only the benchmark knows.
func (p peer) fill(r *rig, sink string) (string, error) {
	pids, err := r.traced.pids()
	if err != nil {
		return "", err
	}
	var list []string
	for _, pid := range pids {
		list = append(list, strconv.Itoa(pid))
	}
	return strings.NewReplacer("{port}", strconv.Itoa(r.port), "{pids}", strings.Join(list, ","),
		"{cgroup}", r.traced.path, "{otlp}", sink).Replace(p.command), nil
}

// runningPeer is a peer that was started.
type runningPeer struct {
	peer
	cmd   *exec.Cmd
	group *cgroup
	log   *output
	ended chan error
}

// startPeer runs a peer in the agents' cgroup and waits until it is ready. It finds
// the receiver of spans in the variables that OpenTelemetry names for it.
func startPeer(ctx context.Context, p peer, r *rig, g *cgroup, sink, dir string) (*runningPeer, error) {
	command, err := p.fill(r, sink)
	if err != nil {
		return nil, err
	}
	run := &runningPeer{peer: p, group: g, log: &output{}, ended: make(chan error, 1)}
	run.cmd = exec.CommandContext(ctx, "/bin/sh", "-c", command)
	run.cmd.Dir, run.cmd.Stdout, run.cmd.Stderr = dir, run.log, run.log
	run.cmd.WaitDelay = time.Second
	run.cmd.Env = append(os.Environ(), "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+sink, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc")
	run.cmd.SysProcAttr = g.attributes()
	run.cmd.SysProcAttr.Setpgid = true // the command may be several processes
	if err := run.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	go func() { run.ended <- run.cmd.Wait() }()
	if err := run.wait(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is not ready: %w\n%s", p.name, err, run.log), g.empty())
	}
	return run, nil
}

func (p *runningPeer) wait(ctx context.Context) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	begun, patience := time.Now(), time.Minute
	span, err := time.ParseDuration(p.ready)
	if p.ready == "" {
		span, err = peerWait, nil
	}
	waits := err == nil
	for time.Since(begun) < patience {
		line, isLine := strings.CutPrefix(p.ready, "line:")
		switch {
		case waits && time.Since(begun) >= span:
			return p.alive()
		case isLine && strings.Contains(p.log.String(), line):
			return p.alive()
		case !waits && !isLine && answers(client, p.ready):
			return p.alive()
		}
		if err := p.alive(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if waits {
			patience = span + time.Minute
		}
	}
	return fmt.Errorf("%s did not come true within %v", p.ready, patience)
}

func answers(client *http.Client, url string) bool {
	resp, err := client.Get(url)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// alive is an error once the command has ended: what is measured then is no agent.
func (p *runningPeer) alive() error {
	select {
	case err := <-p.ended:
		p.ended <- err
		return fmt.Errorf("%s has ended: %w\n%s", p.name, errors.Join(err, errEnded), p.log)
	default:
		return nil
	}
}

var errEnded = errors.New("an agent has to run until it is told to end (its command must not go to the background)")

// stop ends the peer and everything it started: by SIGTERM, and after a while by
// SIGKILL.
func (p *runningPeer) stop(grace time.Duration) error {
	if err := p.alive(); err != nil {
		return errors.Join(err, p.group.empty())
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM) // what does not end by it is killed below
	for deadline := time.Now().Add(grace); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if pids, err := p.group.pids(); err != nil || len(pids) == 0 {
			return err
		}
	}
	return p.group.empty()
}
