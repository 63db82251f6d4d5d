package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

// order is what a client is told to send, JSON on one line.
type order struct {
	Prefix      string `json:"prefix"`
	Count       int    `json:"count"`
	Concurrency int    `json:"concurrency"`
	// Kind is "" for a call as a relay makes it; get, post, chunked or own (a
	// traceparent of its own) for a request with a head of a certain length.
	Kind string `json:"kind"`
	// Pad is the length of the header X-Pad of the first request; that of each
	// further one is longer by Grow.
	Pad  int `json:"pad"`
	Grow int `json:"grow"`
}

// obey sends what is ordered.
func (r *relay) obey(c net.Conn) error {
	sc := bufio.NewScanner(c)
	for sc.Scan() {
		var o order
		if err := json.Unmarshal(sc.Bytes(), &o); err != nil {
			return fmt.Errorf("order %q: %w", sc.Text(), err)
		}
		answer := "ok"
		if err := r.send(o); err != nil {
			answer = err.Error()
		}
		if _, err := fmt.Fprintln(c, answer); err != nil {
			return err
		}
	}
	return sc.Err()
}

func (r *relay) send(o order) error {
	var next int64
	failed := make(chan error, o.Concurrency)
	var wg sync.WaitGroup
	for i := 0; i < o.Concurrency; i++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				n := int(atomic.AddInt64(&next, 1)) - 1
				if n >= o.Count {
					return
				}
				if err := r.one(o, n); err != nil {
					failed <- fmt.Errorf("request %d of %s: %w", n, o.Prefix, err)
					return
				}
			}
		}()
	}
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

func (r *relay) one(o order, n int) error {
	id := fmt.Sprintf("%s-%d", o.Prefix, n)
	if o.Kind == "" {
		return r.ask(context.Background(), call{id: id, name: "client"})
	}
	body := strings.Repeat(id+"\n", 1+n*7%900)
	method, reader := http.MethodPost, io.Reader(strings.NewReader(body))
	switch o.Kind {
	case "get":
		method, reader, body = http.MethodGet, nil, ""
	case "chunked":
		// Of a type whose length net/http does not know.
		reader = io.MultiReader(strings.NewReader(body[:len(body)/2]), strings.NewReader(body[len(body)/2:]))
	}
	req, err := http.NewRequest(method, r.next+"/leaf?id="+id+"&call=client", reader)
	if err != nil {
		return err
	}
	req.Header.Set("X-Truth", id+"/client")
	req.Header.Set("X-Pad", strings.Repeat("p", o.Pad+n*o.Grow))
	if o.Kind == "own" {
		req.Header.Set("Traceparent", fmt.Sprintf("00-%032x-%016x-01", 0xabcd0000+n, 0xdcba0000+n))
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(body))
	if want := fmt.Sprintf("%x", sum); resp.StatusCode != http.StatusOK || !bytes.Equal(got, []byte(want)) {
		return fmt.Errorf("%s: %.300s", resp.Status, got)
	}
	return nil
}
