package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
)

// place is where a service listens and what it calls.
type place struct {
	port       int
	downstream string // URL, "" for the last hop
	keepAlive  bool   // towards the downstream
}

func (p place) env(more ...string) []string {
	env := append(more, fmt.Sprintf("PORT=%d", p.port))
	if p.downstream != "" {
		env = append(env, "DOWNSTREAM="+p.downstream)
	}
	if p.keepAlive {
		env = append(env, "KEEPALIVE=1")
	}
	return env
}

// service starts a program and waits until it answers.
type service func(t *testing.T, g *group, p place) *program

func python(t *testing.T, p place) (string, []string) {
	t.Helper()
	bin, err := tool("python3", "python3")
	need(t, "python", err)
	libs, err := installed("python")
	need(t, "flask", err)
	return bin, p.env("PYTHONPATH="+libs, "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1")
}

func werkzeug(t *testing.T, g *group, p place) *program {
	t.Helper()
	bin, env := python(t, p)
	prog := g.start("werkzeug", launch{env: env, argv: []string{bin, filepath.Join(appsDir(t), "flask", "app.py")}}, nil)
	prog.ready(p.port)
	return prog
}

func gunicorn(t *testing.T, g *group, p place) *program {
	t.Helper()
	bin, env := python(t, p)
	prog := g.start("gunicorn", launch{env: env, argv: []string{bin, "-m", "gunicorn", "--workers", "4", "--worker-class", "sync",
		"--chdir", filepath.Join(appsDir(t), "flask"), "--bind", fmt.Sprintf("127.0.0.1:%d", p.port), "app:app"}}, nil)
	prog.ready(p.port)
	return prog
}

func express(t *testing.T, g *group, p place) *program {
	t.Helper()
	bin, err := tool("node", "nodejs")
	need(t, "node", err)
	modules, err := installed("node_modules")
	need(t, "express", err)
	prog := g.start("express", launch{env: p.env("NODE_PATH="+modules, "NODE_ENV=production"),
		argv: []string{bin, filepath.Join(appsDir(t), "express", "server.js")}}, nil)
	prog.ready(p.port)
	return prog
}

func goService(t *testing.T, g *group, p place) *program {
	t.Helper()
	prog := g.start("gosvc", launch{env: p.env(), argv: []string{goProgram(t, "./test/apps/gosvc")}}, nil)
	prog.ready(p.port)
	return prog
}

func javaPool(t *testing.T, g *group, p place) *program {
	t.Helper()
	bin, err := tool("java", "default-jre-headless")
	need(t, "java", err)
	classes, err := installed("java")
	need(t, "java", err)
	prog := g.start("java", launch{env: p.env(), argv: []string{bin, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
		// Its responses are two sends; with Nagle each costs a delayed ACK.
		"-Dsun.net.httpserver.nodelay=true",
		fmt.Sprintf("-Dhttp.keepAlive=%v", p.keepAlive), "-Dhttp.maxConnections=64", "-cp", classes, "Mid"}}, nil)
	prog.ready(p.port)
	return prog
}

func nginx(t *testing.T, g *group, p place) *program {
	t.Helper()
	bin, err := tool("nginx", "nginx-light")
	need(t, "nginx", err)
	text, err := template.ParseFiles(filepath.Join(appsDir(t), "nginx", "nginx.conf.tmpl"))
	if err != nil {
		t.Fatal(err)
	}
	host, path, _ := strings.Cut(strings.TrimPrefix(p.downstream, "http://"), "/")
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	f, err := os.Create(conf)
	if err != nil {
		t.Fatal(err)
	}
	err = text.Execute(f, map[string]any{"Dir": dir, "Port": p.port, "Upstream": host, "Path": "/" + path, "KeepAlive": p.keepAlive})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	prog := g.start("nginx", launch{argv: []string{bin, "-p", dir, "-c", conf}}, nil)
	prog.ready(p.port)
	return prog
}
