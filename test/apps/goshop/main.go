// Command goshop is two services that know nothing of tracing. The shop answers
// GET /items/{id} by asking the stock in each way that Go has: in the handler, in a
// goroutine, through a pool of workers, over HTTP/1, HTTP/2 and gRPC, with the
// request's context and without, and one call that it gives up.
//
//	goshop stock HTTP GRPC       addresses to listen on
//	goshop shop HTTP STOCK GRPC  its own address, and the stock's
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "goshop:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "stock":
		return stock(args[1], args[2])
	case len(args) == 4 && args[0] == "shop":
		return shop(args[1], "http://"+args[2], args[3])
	}
	return errors.New("want stock HTTP GRPC, or shop HTTP STOCK GRPC")
}

func serve(address string, mux *http.ServeMux) error {
	s := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: time.Minute, Protocols: &http.Protocols{}}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	return s.ListenAndServe()
}

func stock(address, rpc string) error {
	listener, err := net.Listen("tcp", rpc)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	known := health.NewServer()
	known.SetServingStatus("stock", grpc_health_v1.HealthCheckResponse_SERVING)
	grpc_health_v1.RegisterHealthServer(s, known)
	go func() { _ = s.Serve(listener) }() // until the process ends
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stock/{id}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, 3) })
	mux.HandleFunc("GET /slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	return serve(address, mux)
}

type job struct {
	ctx  context.Context
	path string
	done func()
}

func shop(address, upstream, rpc string) error {
	h1 := &http.Client{Timeout: time.Minute}
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	h2 := &http.Client{Timeout: time.Minute, Transport: &http.Transport{Protocols: protocols}}
	conn, err := grpc.NewClient(rpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	check := grpc_health_v1.NewHealthClient(conn)
	jobs := make(chan job)
	for range 2 {
		go func() {
			for j := range jobs {
				get(j.ctx, h1, upstream+j.path)
				j.done()
			}
		}()
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{id}", func(w http.ResponseWriter, r *http.Request) {
		ctx, none := r.Context(), context.Background()
		get(ctx, h1, upstream+"/stock/context")
		get(none, h1, upstream+"/stock/goroutine")
		get(ctx, h2, upstream+"/stock/http2")
		var all sync.WaitGroup
		all.Go(func() { get(none, h1, upstream+"/stock/creator") })
		all.Wait()
		all.Add(1)
		jobs <- job{ctx, "/stock/worker", all.Done}
		all.Wait()
		for _, of := range []string{"stock", "nothing"} { // the other is NOT_FOUND
			_, _ = check.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: of})
		}
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		get(short, h2, upstream+"/slow")
		time.Sleep(50 * time.Millisecond) // the call is over a moment after it was given up
		fmt.Fprintln(w, "ok")
	})
	return serve(address, mux)
}

// get asks, and does not mind how it ends.
func get(ctx context.Context, c *http.Client, url string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		panic(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}
