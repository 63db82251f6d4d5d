package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// ServeHTTP answers /do/PATTERN.
func (r *relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	pattern := strings.TrimPrefix(req.URL.Path, "/do/")
	switch pattern {
	case "proxy":
		r.proxy.ServeHTTP(w, req)
		return
	case "late":
		// The whole answer is out while the handler still runs.
		w.Header().Set("Content-Length", "2")
		_, _ = io.WriteString(w, "ok")
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		if err := r.ask(nil, call{id: req.URL.Query().Get("id"), name: "late"}); err != nil { //nolint:staticcheck // as by http.Get
			panic(err)
		}
		return
	}
	if err := r.do(pattern, req); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	_, _ = io.WriteString(w, "ok")
}

// do makes the calls of a pattern; the names of the calls are the truth that
// the test knows too. Where it says ask(nil, …) no context is handed over.
func (r *relay) do(pattern string, req *http.Request) error {
	ctx := req.Context()
	q := req.URL.Query()
	id := q.Get("id")
	one := call{id: id, name: pattern}
	switch pattern {
	case "none":
		return nil
	case "same":
		return r.ask(ctx, one)
	case "post":
		one.body = true
		return r.ask(ctx, one)
	case "noctx":
		return r.ask(nil, one)
	case "own":
		one.parent = q.Get("own")
		return r.ask(ctx, one)
	case "go":
		return waited(func() error { return r.ask(nil, one) })
	case "goctx":
		return waited(func() error { return r.ask(ctx, one) })
	case "nested":
		return waited(func() error { return waited(func() error { return r.ask(nil, one) }) })
	case "nested-3":
		return waited(func() error { return waited(func() error { return waited(func() error { return r.ask(nil, one) }) }) })
	case "nested-ended":
		// Who made the caller has ended when it calls.
		done := make(chan error, 1)
		go func() {
			go func() {
				time.Sleep(100 * time.Microsecond)
				done <- r.ask(nil, one)
			}()
		}()
		return <-done
	case "nested-errgroup":
		return waited(func() error {
			var g errgroup.Group
			for _, name := range []string{"a", "b", "c"} {
				c := call{id: id, name: name}
				g.Go(func() error { return r.ask(nil, c) })
			}
			return g.Wait()
		})
	case "timer":
		done := make(chan error, 1)
		time.AfterFunc(time.Millisecond, func() { done <- r.ask(nil, one) })
		return <-done
	case "nested-ctx":
		return waited(func() error { return waited(func() error { return r.ask(ctx, one) }) })
	case "errgroup":
		g, ctx := errgroup.WithContext(ctx)
		for _, name := range []string{"a", "b", "c"} {
			c := call{id: id, name: name}
			g.Go(func() error { return r.ask(ctx, c) })
		}
		return g.Wait()
	case "pool":
		return r.through(r.eager, ctx, one)
	case "pool-background":
		return r.through(r.eager, context.Background(), one)
	case "hire":
		r.hire()
		return nil
	case "pool-lazy":
		return r.through(r.lazy, context.Background(), one)
	case "lend":
		r.lend()
		return nil
	case "borrow":
		return r.borrow(one)
	case "inherit":
		return r.through(<-r.kept, context.Background(), one)
	case "single":
		_, err, _ := r.flights.Do(q.Get("key"), func() (any, error) { return nil, r.ask(ctx, one) })
		return err
	case "single-chan":
		return (<-r.flights.DoChan(q.Get("key"), func() (any, error) { return nil, r.ask(nil, one) })).Err
	case "retry":
		return r.retry(ctx, id)
	case "redirect":
		// The client follows on behalf of the same request; the truth of the second
		// call is in the URL that the back end gives it.
		return r.ask(ctx, call{id: id, name: "first", query: "&to=second"})
	case "hedge":
		return r.hedge(ctx, id)
	case "sequential":
		if err := r.ask(ctx, call{id: id, name: "a"}); err != nil {
			return err
		}
		return r.ask(ctx, call{id: id, name: "b"})
	case "parallel":
		return r.fan(ctx, id, "a", "b")
	case "fan":
		return r.fan(ctx, id, tenCalls()...)
	case "fan-noctx":
		return r.fan(nil, id, tenCalls()...)
	case "wrapper":
		ctx, cancel := context.WithCancel(tagged{Context: ctx, tag: id})
		defer cancel()
		return r.ask(&tagged{Context: ctx, tag: pattern}, one)
	case "chain":
		for i := 0; i < 60; i++ {
			ctx = context.WithValue(ctx, depth(i), i)
		}
		return r.ask(ctx, one)
	case "timeout":
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		return r.ask(ctx, one)
	case "client-timeout":
		one.client = &http.Client{Transport: r.client.Transport, Timeout: time.Minute}
		return r.ask(ctx, one)
	case "withoutcancel":
		return r.ask(withoutCancel(ctx), one)
	case "afterfunc":
		return afterFunc(ctx, func(ctx context.Context) error { return r.ask(ctx, one) })
	case "forget":
		go r.later(nil, one)
		return nil
	case "forget-ctx":
		go r.later(withoutCancel(ctx), one)
		return nil
	}
	return fmt.Errorf("no pattern %q", pattern)
}

// tagged is a context of the program's own that embeds another.
type tagged struct {
	context.Context
	tag string
}

func (t tagged) Value(key any) any {
	if key == (tagged{}) {
		return t.tag
	}
	return t.Context.Value(key)
}

type depth int

func tenCalls() []string { return strings.Split("a b c d e f g h i j", " ") }

// waited runs f in a goroutine of its own.
func waited(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return <-done
}

// fan makes calls at the same time, each in a goroutine.
func (r *relay) fan(ctx context.Context, id string, names ...string) error {
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Add(1)
		go func(i int, c call) {
			defer wg.Done()
			errs[i] = r.ask(ctx, c)
		}(i, call{id: id, name: name})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// retry calls a back end that fails at first.
func (r *relay) retry(ctx context.Context, id string) error {
	first := call{id: id, name: "first", query: "&status=503", status: http.StatusServiceUnavailable}
	if err := r.ask(ctx, first); err != nil {
		return err
	}
	return r.ask(ctx, call{id: id, name: "second"})
}

// hedge sends a second request where the first takes long, and cancels the
// slower of them.
func (r *relay) hedge(ctx context.Context, id string) error {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 2)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	send := func(c call) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			done <- r.ask(ctx, c)
		}()
	}
	send(call{id: id, name: "first", query: "&delay=20ms"})
	select {
	case err := <-done:
		return err
	case <-time.After(4 * time.Millisecond):
	}
	send(call{id: id, name: "second"})
	return <-done
}

// later calls when the request that started it has been answered.
func (r *relay) later(ctx context.Context, c call) {
	time.Sleep(3 * time.Millisecond)
	if err := r.ask(ctx, c); err != nil && !errors.Is(err, context.Canceled) {
		panic(err)
	}
}
