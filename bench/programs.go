package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"golang.org/x/sys/unix"
)

// service is a program of test/apps in a process of its own, or several.
type service struct {
	name      string
	port      int
	processes int // it and its children once it is ready
	argv      []string
	env       []string
}

// start runs it in a cgroup and waits until it answers and has all its processes.
func (p *service) start(ctx context.Context, g *cgroup, dir string) error {
	cmd := exec.CommandContext(ctx, p.argv[0], p.argv[1:]...)
	out := &output{}
	cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.SysProcAttr = out, out, dir, g.attributes()
	cmd.Env = append([]string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/root", "LANG=C.UTF-8", "NO_PROXY=*",
		fmt.Sprintf("PORT=%d", p.port)}, p.env...)
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	var last error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if last = p.ready(client, g); last == nil {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("%s ended at start: %w\n%s", p.name, err, out)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s is not ready: %w\n%s", p.name, last, out)
}

func (p *service) ready(client *http.Client, g *cgroup) error {
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/ready", p.port))
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	pids, err := g.pids()
	if err == nil && len(pids) < p.processes {
		err = fmt.Errorf("%d processes, want %d", len(pids), p.processes)
	}
	return err
}

// installed is what test/apps and test/e2e/deps.sh provide.
type installed struct {
	apps string // folder test/apps
	deps string // folder of what deps.sh installed
}

func findInstalled() (installed, error) {
	dir, err := os.Getwd()
	if err != nil {
		return installed{}, fmt.Errorf("find test/apps: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		apps := filepath.Join(dir, "test", "apps")
		if _, err := os.Stat(filepath.Join(apps, "flask", "app.py")); err == nil {
			deps := os.Getenv("WEFT_E2E_DEPS")
			if deps == "" {
				cache, err := os.UserCacheDir()
				if err != nil {
					return installed{}, fmt.Errorf("find what test/e2e/deps.sh installed: %w", err)
				}
				deps = filepath.Join(cache, "weft-e2e")
			}
			return installed{apps, deps}, nil
		}
		if dir == filepath.Dir(dir) {
			return installed{}, errors.New("find test/apps: run bench in the checkout")
		}
	}
}

// tool is the path of a program that deps.sh installs, as the end-to-end tests
// find it.
func tool(name string) (string, error) {
	for _, dir := range []string{"/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"} {
		p := filepath.Join(dir, name)
		if unix.Access(p, unix.X_OK) == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("no program %s: run test/e2e/deps.sh, or leave its sections out with -only", name)
}

func (in installed) dep(name string) (string, error) {
	p := filepath.Join(in.deps, name)
	if _, err := os.Stat(p); err != nil {
		return "", fmt.Errorf("no %s: run test/e2e/deps.sh, or leave its sections out with -only", p)
	}
	return p, nil
}

// gunicorn runs Flask with a pool of threads: connections are kept, and each
// request is served by one thread.
func (in installed) gunicorn(port int, downstream string) (*service, error) {
	const workers, threads = 2, 8
	python, err := tool("python3")
	if err != nil {
		return nil, err
	}
	libs, err := in.dep("python")
	if err != nil {
		return nil, err
	}
	return &service{name: "gunicorn", port: port, processes: 1 + workers,
		argv: []string{python, "-m", "gunicorn", "--workers", strconv.Itoa(workers), "--worker-class", "gthread",
			"--threads", strconv.Itoa(threads), "--keep-alive", "30", "--log-level", "warning",
			"--chdir", filepath.Join(in.apps, "flask"), "--bind", fmt.Sprintf("127.0.0.1:%d", port), "app:app"},
		env: []string{"PYTHONPATH=" + libs, "PYTHONDONTWRITEBYTECODE=1", "DOWNSTREAM=" + downstream, "KEEPALIVE=1"}}, nil
}

func (in installed) express(port int) (*service, error) {
	node, err := tool("node")
	if err != nil {
		return nil, err
	}
	modules, err := in.dep("node_modules")
	if err != nil {
		return nil, err
	}
	return &service{name: "express", port: port, processes: 1, argv: []string{node, filepath.Join(in.apps, "express", "server.js")},
		env: []string{"NODE_PATH=" + modules, "NODE_ENV=production"}}, nil
}

// nginxWorkers is what the configuration in test/apps says.
const nginxWorkers = 2

func (in installed) nginx(port int, upstream, dir string) (*service, error) {
	bin, err := tool("nginx")
	if err != nil {
		return nil, err
	}
	text, err := template.ParseFiles(filepath.Join(in.apps, "nginx", "nginx.conf.tmpl"))
	if err != nil {
		return nil, fmt.Errorf("read nginx's configuration: %w", err)
	}
	var conf strings.Builder
	if err := text.Execute(&conf, map[string]any{"Dir": dir, "Port": port, "Upstream": upstream, "Path": path, "KeepAlive": true}); err != nil {
		return nil, fmt.Errorf("fill in nginx's configuration: %w", err)
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf.String()), 0o600); err != nil {
		return nil, fmt.Errorf("write nginx's configuration: %w", err)
	}
	return &service{name: "nginx", port: port, processes: 1 + nginxWorkers, argv: []string{bin, "-p", dir, "-c", file}}, nil
}

// freePort is one that nobody listens on, below those that the kernel gives to
// outgoing connections: a program that is started anew must find it free again.
func freePort() (int, error) {
	const from, to = 20000, 30000
	var last error
	for range 100 {
		port := from + rand.IntN(to-from)
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return port, l.Close()
		}
		last = err
	}
	return 0, fmt.Errorf("find a free port from %d to %d: %w", from, to, last)
}
