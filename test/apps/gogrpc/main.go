// Command gogrpc is a gRPC service that nobody instrumented: a relay between a
// caller and a back end, with every kind of stream and the usual ways of calling.
//
//	gogrpc -role relay -listen ADDR -next ADDR -control SOCKET
//	gogrpc -role back  -listen ADDR -control SOCKET
//
// Messages are google.protobuf.StringValue with JSON, a message of this package.
// Each call carries its own truth in the metadata x-truth, "ID/NAME". Every
// server remembers what arrived and writes it as JSON lines to whoever connects
// to its control socket.
//
// It compiles with Go 1.19 and grpc 1.50: grpc150.mod, grpc160.mod and go.mod
// name the versions.
package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// settings are the flags.
type settings struct {
	role    string
	listen  string
	next    string
	control string
	tls     bool
	http    bool
}

func main() {
	var s settings
	flag.StringVar(&s.role, "role", "relay", "relay or back")
	flag.StringVar(&s.listen, "listen", "", "host:port to serve at")
	flag.StringVar(&s.next, "next", "", "host:port of the back end")
	flag.StringVar(&s.control, "control", "", "path of the control socket to make")
	flag.BoolVar(&s.tls, "tls", false, "serve and call over TLS")
	flag.BoolVar(&s.http, "http", false, "serve through net/http and grpc.Server.ServeHTTP")
	flag.Parse()
	log.SetFlags(log.Lmicroseconds)
	if err := run(s); err != nil {
		log.Fatalf("gogrpc %s: %v", s.role, err)
	}
}

func run(s settings) error {
	svc := &service{}
	switch s.role {
	case "back":
	case "relay":
		creds := insecure.NewCredentials()
		if s.tls {
			// The certificate is made at start and lives in the server's memory alone.
			creds = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec
		}
		svc.next = newRelay(s.next, creds)
	default:
		return fmt.Errorf("role %q: want relay or back", s.role)
	}
	if err := control(s.control, svc.report); err != nil {
		return err
	}
	l, err := net.Listen("tcp", s.listen)
	if err != nil {
		return err
	}
	var options []grpc.ServerOption
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.tls {
		cert, err := certificate()
		if err != nil {
			return err
		}
		config.Certificates = []tls.Certificate{cert}
		if !s.http {
			options = append(options, grpc.Creds(credentials.NewTLS(config)))
		}
	}
	server := grpc.NewServer(options...)
	server.RegisterService(&description, svc)
	if !s.http {
		return server.Serve(l)
	}
	plain := &http.Server{Handler: server, TLSConfig: config, ReadHeaderTimeout: time.Minute}
	if s.tls {
		return plain.ServeTLS(l, "", "")
	}
	plain.Handler = h2c.NewHandler(server, &http2.Server{})
	return plain.Serve(l)
}

// control serves a unix socket, one connection at a time. Spans are of TCP, so
// what is said there is outside of every trace.
func control(path string, handle func(net.Conn) error) error {
	if path == "" {
		return nil
	}
	_ = os.Remove(path) // of an earlier run
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				log.Fatalf("accept on %s: %v", path, err)
			}
			if err := handle(c); err != nil {
				log.Printf("control: %v", err)
			}
			_ = c.Close()
		}
	}()
	return nil
}

// report writes the arrivals since the last report.
func (s *service) report(c net.Conn) error {
	s.mu.Lock()
	taken := s.arrivals
	s.arrivals = nil
	s.mu.Unlock()
	buf := bufio.NewWriter(c)
	enc := json.NewEncoder(buf)
	for _, a := range taken {
		if err := enc.Encode(a); err != nil {
			return err
		}
	}
	return buf.Flush()
}

func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a key: %w", err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(24 * 365 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
