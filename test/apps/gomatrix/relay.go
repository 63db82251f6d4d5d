package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/singleflight"
)

// workers of each pool.
const workers = 32

// relay calls the back end on behalf of its requests.
type relay struct {
	client  *http.Client
	next    string
	nextURL *url.URL
	proxy   *httputil.ReverseProxy
	flights singleflight.Group
	eager   chan job // of workers that were there before any request
	lazy    chan job // of workers that requests made
	started int32    // lazy workers
	loans   chan loan
	kept    chan chan job // workers of requests that have been answered
}

// loan is a worker that a request made, for another one meanwhile.
type loan struct {
	jobs chan job
	back chan struct{}
}

// lend makes a worker, and waits until another request has used it.
func (r *relay) lend() {
	l := loan{jobs: make(chan job), back: make(chan struct{})}
	go r.work(l.jobs)
	r.loans <- l
	<-l.back
	r.kept <- l.jobs
}

// borrow has a worker make the call that another request has just made.
func (r *relay) borrow(c call) error {
	l := <-r.loans
	defer close(l.back)
	return r.through(l.jobs, context.Background(), c)
}

// job is a call that a worker makes. Its context is a field because that is how
// such programs pass it on.
type job struct {
	ctx  context.Context
	call call
	done chan error
}

func newRelay(client *http.Client, next string) *relay {
	u, err := url.Parse(next)
	if err != nil {
		u = &url.URL{}
	}
	r := &relay{client: client, next: next, nextURL: u, eager: make(chan job), lazy: make(chan job),
		loans: make(chan loan), kept: make(chan chan job, 1<<16)}
	r.proxy = &httputil.ReverseProxy{Director: r.direct, Transport: client.Transport}
	for i := 0; i < workers; i++ {
		go r.work(r.eager)
	}
	return r
}

func (r *relay) work(jobs chan job) {
	for j := range jobs {
		j.done <- r.ask(j.ctx, j.call)
	}
}

// through has a worker of a pool make the call.
func (r *relay) through(pool chan job, ctx context.Context, c call) error {
	done := make(chan error, 1)
	pool <- job{ctx: ctx, call: c, done: done}
	return <-done
}

// hire starts a lazy worker, up to their number: its creator is the goroutine
// that serves this request, and then the next of the connection.
func (r *relay) hire() {
	if atomic.AddInt32(&r.started, 1) <= workers {
		go r.work(r.lazy)
	}
}

func (r *relay) direct(out *http.Request) {
	id := out.URL.Query().Get("id")
	out.URL.Scheme, out.URL.Host, out.Host = r.nextURL.Scheme, r.nextURL.Host, r.nextURL.Host
	out.URL.Path, out.URL.RawQuery = "/leaf", "id="+url.QueryEscape(id)+"&call=proxy"
	out.Header.Set("X-Truth", id+"/proxy")
}

// call is one request to the back end.
type call struct {
	id     string
	name   string
	query  string // further query, "" or "&name=value"
	parent string // traceparent that the program sets itself
	body   bool
	status int          // wanted, 0: 200
	client *http.Client // nil: the relay's
}

// ask makes the call and wants its own truth back. Without a context it is made
// as by http.Get.
func (r *relay) ask(ctx context.Context, c call) error {
	truth := c.id + "/" + c.name
	target := r.next + "/leaf?id=" + url.QueryEscape(c.id) + "&call=" + c.name + c.query
	method, body := http.MethodGet, io.Reader(nil)
	if c.body {
		method, body = http.MethodPost, strings.NewReader(truth)
	}
	req, err := http.NewRequest(method, target, body)
	if err != nil {
		return err
	}
	if ctx != nil {
		req = req.WithContext(ctx)
	}
	req.Header.Set("X-Truth", truth)
	if c.parent != "" {
		req.Header.Set("Traceparent", c.parent)
	}
	client := c.client
	if client == nil {
		client = r.client
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	want := c.status
	if want == 0 {
		want = http.StatusOK
	}
	if resp.StatusCode != want {
		return fmt.Errorf("%s: %s: %.200s", target, resp.Status, got)
	}
	if string(got) != truth {
		return fmt.Errorf("%s: answered %.200q", target, got)
	}
	return nil
}
