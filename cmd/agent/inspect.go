package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"weft/internal/config"
	"weft/internal/privilege"
	"weft/loader"
)

type inspectCmd struct {
	JSON   bool   `name:"json" help:"Print JSON."`
	Config string `help:"Say which target of this file would select the process." placeholder:"FILE" type:"path"`
	What   string `arg:"" name:"pid|file" help:"A process id, or an ELF file (./123 if its name is digits)."`
}

// processView and binaryView are what is printed; text prints the same facts.
type processView struct {
	PID         uint32           `json:"pid"`
	Exe         string           `json:"exe"`
	Args        []string         `json:"args"`
	Cgroup      string           `json:"cgroup"`
	Started     time.Time        `json:"started"`
	Threads     int              `json:"threads"`
	Service     serviceView      `json:"service"`
	Runtime     runtimeView      `json:"runtime"`
	Ports       []uint16         `json:"ports"`
	Connections []connectionView `json:"connections"`
	OpenSSL     string           `json:"openssl"`
	Selected    selectedView     `json:"selected"`
	Attach      attachView       `json:"attach"`
	Go          *goView          `json:"go,omitempty"`
	Unread      []string         `json:"unread"`
}

type serviceView struct {
	Name string `json:"name"`
	From string `json:"from"` // targets, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, executable
}

type runtimeView struct {
	Language string `json:"language"`
	Version  string `json:"version"`
	Module   string `json:"module"`
	Evidence string `json:"evidence"`
}

type connectionView struct {
	FD     int    `json:"fd"`
	Local  string `json:"local"`
	Remote string `json:"remote"`
	Role   string `json:"role"` // client, server
	Adopt  bool   `json:"adopt"`
}

type selectedView struct {
	By  string `json:"by"` // the target, "" if none selects
	Why string `json:"why"`
}

type attachView struct {
	Capture string `json:"capture"` // "" if none works or that is not known
	SockOps string `json:"sockops"` // cgroup directory
	Inject  string `json:"inject"`  // the tier that writes traceparent
	Why     string `json:"why"`     // what is not known, or does not work
}

type binaryView struct {
	Path        string      `json:"path"`
	Kind        string      `json:"kind"`
	Machine     string      `json:"machine"`
	Linking     string      `json:"linking"`
	Interpreter string      `json:"interpreter"`
	Libraries   []string    `json:"libraries"`
	OpenSSL     string      `json:"openssl"`
	Runtime     runtimeView `json:"runtime"`
	Attach      string      `json:"attach"`
	Go          *goView     `json:"go,omitempty"`
}

// What is attached of a file. This version has no tier for libraries.
const (
	fileAttach = "nothing in the file itself: weft sees its sockets and writes into plaintext HTTP/1.x there (socket tier)"
	goAttach   = "to the probe sites in each of its processes (Go tier), and to its sockets"
)

const tlsUnseen = "what goes through TLS is passed on unread in this version"

// Run is `weft inspect`.
func (i *inspectCmd) Run(s *streams) error {
	c, err := config.Load(i.Config, os.Environ())
	if err != nil {
		return usage(err)
	}
	var view any
	var text []byte
	if pid, ok := parsePID(i.What); ok {
		if pid == 0 {
			return usage(fmt.Errorf("inspect: process %s does not exist", i.What))
		}
		stop := patience(s)
		p, err := i.process(c, pid)
		stop()
		if err != nil {
			return usage(fmt.Errorf("inspect: %w", err))
		}
		view, text = p, p.text()
	} else {
		b, err := loader.InspectFile(i.What)
		if err != nil {
			return usage(fmt.Errorf("inspect: %w", err))
		}
		v := newBinaryView(b)
		if v.Go = inspectGo(i.What, b.Runtime.Language == "go"); v.Go != nil && len(v.Go.Sites) > 0 {
			v.Attach = goAttach
		}
		view, text = v, v.text(b.Runtime)
	}
	if i.JSON {
		err = printJSON(s.out, view)
	} else {
		_, err = s.out.Write(text)
	}
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// parsePID takes what is all digits; 0, which no process has, stands for numbers
// that are too large.
func parsePID(s string) (pid uint32, ok bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, true
	}
	return uint32(n), true
}

func (i *inspectCmd) process(c *config.Config, pid uint32) (*processView, error) {
	p, err := loader.Inspect(pid)
	if err != nil {
		return nil, err
	}
	v := &processView{
		PID: p.PID, Exe: p.Exe, Args: notNil(p.Args), Cgroup: p.Cgroup, Started: p.Started, Threads: p.Threads,
		Runtime: runtimeView(p.Runtime), Ports: notNil(p.Ports), OpenSSL: p.OpenSSL, Unread: notNil(p.Unread),
		Connections: []connectionView{},
	}
	for _, c := range p.Connections {
		role := "client"
		if c.Server {
			role = "server"
		}
		v.Connections = append(v.Connections, connectionView{c.FD, c.Local.String(), c.Remote.String(), role, !c.Server})
	}
	target, why := selectedBy(c.Targets, p.Candidate())
	name := ""
	v.Selected.Why = why
	if target != nil {
		v.Selected.By, name = target.Where()+" "+target.String(), target.Name
	}
	v.Service.Name, v.Service.From = p.Service(name)
	v.Attach = attachTo(c, p)
	v.Go = inspectGo(fmt.Sprintf("/proc/%d/exe", pid), p.Runtime.Language == "go")
	return v, nil
}

// notNil keeps empty lists from being null in JSON.
func notNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// selectedBy is the target that selects, and otherwise why none does. Targets that
// ask for pods are passed over: no API server is asked.
func selectedBy(targets config.Targets, c loader.Candidate) (*config.Target, string) {
	if len(targets) == 0 {
		return nil, "no targets given; see --config"
	}
	candidate := config.Candidate{PID: c.PID, Exe: c.Exe, Args: c.Args, Cgroup: c.Cgroup, Ports: c.Ports}
	passed := 0
	for i := range targets {
		t := &targets[i]
		if t.K8s.IsSet() {
			passed++
			continue
		}
		if !t.Match(candidate) {
			continue
		}
		if t.Exclude {
			return nil, "excluded by " + t.Where() + " " + t.String()
		}
		if passed > 0 {
			return t, fmt.Sprintf("unless one of the %d before it that ask for pods does: inspect asks no API server", passed)
		}
		return t, ""
	}
	if passed > 0 {
		return nil, fmt.Sprintf("none of %d targets matches; %d more ask for pods, and inspect asks no API server", len(targets)-passed, passed)
	}
	return nil, fmt.Sprintf("none of %d targets matches", len(targets))
}

// attachTo tries on this kernel what selecting the process would use.
func attachTo(c *config.Config, p *loader.Inspection) attachView {
	v := attachView{}
	mount, err := loader.Cgroup2Mount()
	if err == nil {
		v.SockOps = filepath.Join(mount, p.Cgroup)
	}
	held, heldErr := privilege.Effective()
	if heldErr == nil {
		heldErr = privilege.Require(held, privilege.UserNamespace())
	}
	if heldErr != nil {
		v.Why = "capture and injection are not tried: " + heldErr.Error()
		return v
	}
	ways := captureWays
	if c.Capture != config.CaptureAny {
		ways = []loader.Capture{loader.Capture(c.Capture)}
	}
	works := loader.CaptureAny
	for _, way := range ways {
		if loader.TryCapture(way) == nil {
			works = way
			break
		}
	}
	if v.Capture = string(works); works == loader.CaptureAny {
		v.Why, v.SockOps = "no way of capture works: see `weft doctor`", ""
		return v
	}
	if !c.Propagation.Injects(config.HeaderTraceparent) {
		v.Why, v.SockOps = "propagation.inject leaves traceparent out: it is observed only", ""
		return v
	}
	if err != nil { // no cgroup v2
		v.Why = err.Error()
		return v
	}
	if _, err := loader.TryInject(works); err != nil {
		v.Why, v.SockOps = oneLine(err), ""
		return v
	}
	v.Inject = "socket"
	return v
}

// table aligns names and values; a value may have several lines.
type table struct{ bytes.Buffer }

func (t *table) row(name, format string, args ...any) {
	fmt.Fprintf(t, "%-12s %s\n", name, visible(fmt.Sprintf(format, args...))) //nolint:errcheck // memory
}

func (v *processView) text() []byte {
	var t table
	t.row("process", "%d, %d threads, since %s", v.PID, v.Threads, v.Started.Format(time.DateTime))
	t.row("executable", "%s", v.Exe)
	t.row("arguments", "%s", quoted(v.Args))
	t.row("cgroup", "%s", cmp.Or(v.Cgroup, "none (no cgroup v2)"))
	t.row("service", "%s (from %s)", v.Service.Name, v.Service.From)
	t.row("runtime", "%s", loader.Runtime(v.Runtime))
	if v.OpenSSL != "" {
		t.row("TLS", "%s is mapped: %s", v.OpenSSL, tlsUnseen)
	}
	ports := "none"
	if len(v.Ports) > 0 {
		ports = strings.Trim(fmt.Sprint(v.Ports), "[]")
	}
	t.row("listens on", "%s", ports)
	name := "connections"
	for _, c := range v.Connections {
		note := ""
		if c.Adopt {
			note = ", would be adopted"
		}
		t.row(name, "%s → %s  %s%s", c.Local, c.Remote, c.Role, note)
		name = ""
	}
	if len(v.Connections) == 0 {
		t.row(name, "none")
	}
	selected := "no: " + v.Selected.Why
	if v.Selected.By != "" {
		selected = strings.TrimSuffix(v.Selected.By+", "+v.Selected.Why, ", ")
	}
	t.row("selected", "%s", selected)
	if v.Attach.Capture != "" {
		t.row("capture", "%s", v.Attach.Capture)
	}
	if v.Attach.SockOps != "" {
		t.row("sockops", "on %s", v.Attach.SockOps)
	}
	switch {
	case v.Attach.Inject != "":
		t.row("injects", "by the %s tier, into plaintext HTTP/1.x requests", v.Attach.Inject)
	case v.Attach.Why != "":
		t.row("injects", "no: %s", v.Attach.Why)
	}
	v.Go.rows(&t)
	for _, u := range v.Unread {
		t.row("not read", "%s", u)
	}
	return t.Bytes()
}

func quoted(args []string) string {
	q := make([]string, len(args))
	for i, a := range args {
		q[i] = a
		if a == "" || strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r == '"' || r == '\'' || r == 0x7f }) {
			q[i] = strconv.Quote(a)
		}
	}
	return strings.Join(q, " ")
}

func newBinaryView(b *loader.Binary) *binaryView {
	return &binaryView{
		Path: b.Path, Kind: b.Kind, Machine: b.Machine, Linking: b.Linking, Interpreter: b.Interpreter,
		Libraries: notNil(b.Libraries), OpenSSL: b.OpenSSL, Runtime: runtimeView(b.Runtime), Attach: fileAttach,
	}
}

func (v *binaryView) text(r loader.Runtime) []byte {
	var t table
	t.row("file", "%s", v.Path)
	t.row("kind", "%s, %s, %s", v.Kind, v.Machine, v.Linking)
	if v.Interpreter != "" {
		t.row("loader", "%s", v.Interpreter)
	}
	if len(v.Libraries) > 0 {
		t.row("libraries", "%s", strings.Join(v.Libraries, " "))
	}
	t.row("runtime", "%s", r)
	if v.OpenSSL != "" {
		t.row("TLS", "%s: %s", v.OpenSSL, tlsUnseen)
	}
	t.row("attaches", "%s", v.Attach)
	v.Go.rows(&t)
	return t.Bytes()
}
