// A client and a server of gRPC, and of HTTP/2 by golang.org/x/net.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	var h2 http2.Transport
	h := http.Server{Handler: h2c.NewHandler(server, &http2.Server{})}
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		return err
	}
	if len(os.Args) > 2 {
		return h.Serve(l)
	}
	go server.Serve(l)
	c, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	_, err = grpc_health_v1.NewHealthClient(c).Check(context.Background(), nil)
	h2.CloseIdleConnections()
	r, err2 := h2.RoundTrip(&http.Request{})
	fmt.Println(err, r, err2)
	return nil
}
