package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"weft/loader/probe"
)

// promise is what weft has to make of a load when it traces.
type promise struct {
	spans uint64 // of each request; 0: weft knows nothing of its protocol and must leave it alone
	sends bool   // the traced programs send requests, which leave with context
	dark  bool   // they would, if the kernel let weft write inside TLS; each counts as refused
}

// rig is programs that a load goes through, and how to ask them what they saw.
type rig struct {
	name string
	promise
	traced *cgroup // what agents are told to trace
	plain  *cgroup // load generator and what is behind
	port   int     // that the traced program listens on
	client *child
	load   load // what the client is asked each time, but for rate and length
	saw    func() (served, error)
	// fresh starts the traced program anew, so that no connection is left of the
	// arm before: an agent has to see them open. nil where none is kept.
	fresh func(context.Context) error

	echoed   served   // what answers said so far, with load.Echoed
	children []*child // beside the client
	groups   []*cgroup
}

// newRig makes the cgroups.
func newRig(name string, p promise, l load) (*rig, error) {
	r := &rig{name: name, promise: p, load: l}
	r.saw = func() (served, error) { return r.echoed, nil }
	for of, into := range map[string]**cgroup{"traced": &r.traced, "plain": &r.plain} {
		g, err := newCgroup(of)
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		*into, r.groups = g, append(r.groups, g)
	}
	return r, nil
}

// count adds what the client read in answers.
func (r *rig) count(echo served) {
	r.echoed.Requests += echo.Requests
	r.echoed.Traceparent += echo.Traceparent
	r.echoed.Sampled += echo.Sampled
	r.echoed.Repeated += echo.Repeated
}

// close ends the programs.
func (r *rig) close() error {
	var errs []error
	for _, c := range append(r.children, r.client) {
		if c != nil {
			errs = append(errs, c.stop())
		}
	}
	for _, g := range r.groups {
		errs = append(errs, g.remove())
	}
	return errors.Join(errs...)
}

// child starts a role that ends with the rig.
func (r *rig) child(ctx context.Context, role string, g *cgroup) (*child, error) {
	c, err := startChild(ctx, role, g)
	if err == nil {
		r.children = append(r.children, c)
	}
	return c, err
}

// asks is what the backend in a child says it saw.
func asks(c *child) func() (served, error) {
	return func() (s served, err error) { return s, c.request(struct{}{}, &s) }
}

// path is what every request asks for.
const path = "/cart/items?page=2"

// bothEnds is nothing but tracing: a client and a server, both traced.
func (b *bench) bothEnds(ctx context.Context) (*rig, error) {
	return b.ends(ctx, "both ends", promise{spans: 2, sends: true})
}

// oneEnd is the same with a client that is not traced.
func (b *bench) oneEnd(ctx context.Context) (*rig, error) {
	return b.ends(ctx, "one end", promise{spans: 1})
}

func (b *bench) ends(ctx context.Context, name string, p promise) (_ *rig, err error) {
	r, err := newRig(name, p, load{Conns: b.conns})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	s, err := r.child(ctx, roleServer, r.traced)
	if err != nil {
		return nil, err
	}
	r.saw = asks(s)
	at, err := r.saw()
	if err != nil {
		return nil, err
	}
	r.load.URLs = []string{"http://" + at.Address + path}
	client := r.plain
	if p.sends {
		client = r.traced
	}
	r.client, err = startChild(ctx, roleClient, client)
	return r, err
}

// hop is one traced program between a load generator and a service behind it, both
// of which are not traced.
type hop struct {
	name  string // of its section
	title string
	about string
	spans uint64
	tls   bool // what is inside it only a kernel that allows it lets weft write
	// targets says that the project's targets are for this hop.
	targets bool
	// check says early what is missing for it.
	check func(installed) error
	// start fills in what of the rig differs: load, saw, fresh.
	start func(ctx context.Context, b *bench, in installed, r *rig) error
}

func hops() []hop {
	return []hop{
		{name: "go-http1", title: "Go, HTTP/1", spans: 2, targets: true, start: startGoHTTP(wire{}),
			about: "A `net/http` handler asks a `net/http` service behind it by `http.Client`."},
		{name: "go-http2", title: "Go, HTTP/2", spans: 2, start: startGoHTTP(wire{HTTP2: true}),
			about: "The same over HTTP/2 without TLS, four connections from the load, one to the service behind."},
		{name: "go-tls", title: "Go, HTTP/1 over TLS", spans: 2, tls: true, start: startGoHTTP(wire{TLS: true}),
			about: "The same over HTTP/1 with TLS 1.3 on both sides."},
		{name: "go-http2-tls", title: "Go, HTTP/2 over TLS", spans: 2, tls: true, start: startGoHTTP(wire{HTTP2: true, TLS: true}),
			about: "The same over HTTP/2 with TLS 1.3 on both sides."},
		{name: "go-grpc", title: "Go, gRPC", spans: 2, start: startGoGRPC,
			about: "A gRPC server asks another behind it: unary calls, plaintext, four connections from the load."},
		{name: "flask-express", title: "Flask → Express", spans: 2, check: checkFlask, start: startFlask,
			about: "Flask under gunicorn (2 workers of 8 threads) asks Express through a urllib3 pool. Express tells what headers it received, and the load generator reads that."},
		{name: "nginx", title: "nginx proxy", spans: 2, check: checkNginx, start: startNginx,
			about: "nginx (2 workers) passes requests on to a `net/http` service over kept connections."},
	}
}

// hopRig starts a hop: the load generator and what is behind in one cgroup, the
// traced program in another.
func (b *bench) hopRig(ctx context.Context, h hop) (_ *rig, err error) {
	in, err := findInstalled()
	if err != nil {
		return nil, err
	}
	p := promise{spans: h.spans, sends: h.spans > 0}
	if h.tls {
		// Written in the program's memory, before it is encrypted, or not at all.
		refused, err := probe.WriteUser()
		if err != nil && !refused {
			return nil, err
		}
		p.sends, p.dark = !refused, refused
	}
	r, err := newRig(h.name, p, load{Conns: b.conns})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.port, err = freePort(); err != nil {
		return nil, err
	}
	if r.client, err = startChild(ctx, roleClient, r.plain); err != nil {
		return nil, err
	}
	if err := h.start(ctx, b, in, r); err != nil {
		return nil, fmt.Errorf("%s: %w", h.name, err)
	}
	return r, nil
}

// vacate ends the traced program and waits until its port is free: the kernel lists
// no process any more a moment before it closes what the process had open.
func (r *rig) vacate(ctx context.Context) error {
	if err := r.traced.empty(); err != nil {
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		l, err := net.Listen("tcp4", r.address())
		if err == nil {
			return l.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the traced program's port stays taken: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// address is where the traced program listens.
func (r *rig) address() string { return fmt.Sprintf("127.0.0.1:%d", r.port) }

func startGoHTTP(over wire) func(context.Context, *bench, installed, *rig) error {
	return func(ctx context.Context, _ *bench, _ installed, r *rig) error {
		r.load.Wire, r.load.URLs = over, []string{over.scheme() + "://" + r.address() + path}
		return startGo(ctx, r, roleServer+over.suffix(), roleHop+over.suffix())
	}
}

func startGoGRPC(ctx context.Context, _ *bench, _ installed, r *rig) error {
	r.load.GRPC = r.address()
	return startGo(ctx, r, roleGRPCServer, roleGRPCHop)
}

func startGo(ctx context.Context, r *rig, behind, between string) error {
	at, err := r.backend(ctx, behind)
	if err != nil {
		return err
	}
	r.fresh = func(ctx context.Context) error {
		if err := r.vacate(ctx); err != nil {
			return err
		}
		c, err := startChild(ctx, between, r.traced)
		if err != nil {
			return err
		}
		var ready passedOn
		err = c.request(passOn{Upstream: at.Address, Address: r.address(), Authority: at.Authority}, &ready)
		r.load.Authority = ready.Authority
		go func() { _ = c.cmd.Wait() }() // it ends with its group
		return err
	}
	return nil
}

// backend starts the service behind in a child.
func (r *rig) backend(ctx context.Context, role string) (served, error) {
	c, err := r.child(ctx, role, r.plain)
	if err != nil {
		return served{}, err
	}
	r.saw = asks(c)
	return r.saw()
}

func checkFlask(in installed) error {
	_, err := in.gunicorn(0, "")
	_, err2 := in.express(0)
	return errors.Join(err, err2)
}

func startFlask(ctx context.Context, b *bench, in installed, r *rig) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	behind, err := in.express(port)
	if err != nil {
		return err
	}
	if err := behind.start(ctx, r.plain, b.dir); err != nil {
		return err
	}
	between, err := in.gunicorn(r.port, fmt.Sprintf("http://127.0.0.1:%d/leaf", port))
	if err != nil {
		return err
	}
	r.load.URLs, r.load.Echoed = []string{"http://" + r.address() + "/call?id=7"}, true
	r.restarts(between, b.dir)
	return nil
}

func checkNginx(installed) error {
	_, err := tool("nginx")
	return err
}

func startNginx(ctx context.Context, b *bench, in installed, r *rig) error {
	at, err := r.backend(ctx, roleServer)
	if err != nil {
		return err
	}
	between, err := in.nginx(r.port, at.Address, b.dir)
	if err != nil {
		return err
	}
	r.load.URLs = []string{"http://" + r.address() + "/via"}
	r.restarts(between, b.dir)
	return nil
}

// restarts lets every arm begin with a new one.
func (r *rig) restarts(p *service, dir string) {
	r.fresh = func(ctx context.Context) error {
		if err := r.vacate(ctx); err != nil {
			return err
		}
		return p.start(ctx, r.traced, dir)
	}
}
