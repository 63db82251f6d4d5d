// Goends is a server of HTTP/2 and its own client: each case is one request, which
// ends in a way of its own. It is told by its control socket which one to make.
package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	protocol := flag.String("protocol", "h2c", "h2 or h2c")
	control := flag.String("control", "", "path of the control socket")
	flag.Parse()
	log.SetFlags(0)
	if err := run(*protocol, *control); err != nil {
		fmt.Fprintln(os.Stderr, "goends:", err)
		os.Exit(1)
	}
}

func run(protocol, control string) error {
	server, err := serve(protocol)
	if err != nil {
		return err
	}
	l, err := net.Listen("unix", control)
	if err != nil {
		return fmt.Errorf("listen for control: %w", err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accept control: %w", err)
		}
		name, err := bufio.NewReader(c).ReadString('\n')
		if err == nil {
			_, err = fmt.Fprintln(c, server.call(strings.TrimSpace(name)))
		}
		_ = c.Close()
		if err != nil {
			return fmt.Errorf("control: %w", err)
		}
	}
}

type ends struct {
	http   *http.Server
	client *http.Client
	url    string
}

func serve(protocol string) (*ends, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/{case}", handle)
	e := &ends{http: &http.Server{Handler: mux, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0)}}
	transport := &http.Transport{Protocols: new(http.Protocols)}
	e.client = &http.Client{Transport: transport}
	if protocol == "h2c" {
		e.http.Protocols.SetUnencryptedHTTP2(true)
		transport.Protocols.SetUnencryptedHTTP2(true)
		e.url = "http://" + l.Addr().String()
		go func() { _ = e.http.Serve(l) }()
		return e, nil
	}
	cert, err := certificate()
	if err != nil {
		return nil, err
	}
	e.http.Protocols.SetHTTP2(true)
	transport.Protocols.SetHTTP2(true)
	e.http.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	// The certificate lives in the memory of this process alone.
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
	e.url = "https://" + l.Addr().String()
	go func() { _ = e.http.ServeTLS(l, "", "") }()
	return e, nil
}

func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "goends"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// handle answers a case. What it saw of traceparent comes back in a header.
func handle(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Saw", strings.Join(r.Header["Traceparent"], " "))
	switch r.PathValue("case") {
	case "early":
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	case "cancel", "deadline", "timeout", "hang":
		<-r.Context().Done()
	case "panic":
		panic(http.ErrAbortHandler)
	case "panic-late":
		w.WriteHeader(http.StatusAccepted)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "close":
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1024)); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
		}
	case "hints":
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusCreated)
	case "trailers":
		w.Header().Set("Trailer", "Sum")
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("Sum", "1")
	case "absent":
		http.NotFound(w, r)
	case "fails":
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		_, _ = io.Copy(w, r.Body)
	}
}

// call makes the request of a case and tells how it ended: what the server saw of
// traceparent, or the error.
func (e *ends) call(name string) string {
	ctx, client := context.Background(), *e.client
	var body io.Reader
	method, header := http.MethodGet, http.Header{}
	switch name {
	case "post":
		method, body = http.MethodPost, strings.NewReader(strings.Repeat("x", 100_000))
	case "trailers":
		method, body = http.MethodPost, strings.NewReader("sum")
	case "early":
		read, write := io.Pipe()
		defer write.Close()
		method, body = http.MethodPost, read
	case "head":
		method = http.MethodHead
	case "cancel":
		with, cancel := context.WithCancel(ctx)
		time.AfterFunc(100*time.Millisecond, cancel)
		ctx = with
	case "deadline":
		with, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		ctx = with
	case "timeout":
		client.Timeout = 100 * time.Millisecond
	case "own":
		header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	case "own-many":
		header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		fallthrough
	case "many":
		for i := range 60 {
			header.Set(fmt.Sprintf("X-Field-%d", i), "value")
		}
	case "large":
		header.Set("X-Large", strings.Repeat("abcdefgh", 700))
	case "huge": // more than a frame
		header.Set("X-Huge", strings.Repeat("abcdefgh", 4096))
	}
	req, err := http.NewRequestWithContext(ctx, method, e.url+"/"+name, body)
	if err != nil {
		return err.Error()
	}
	req.Header = header
	resp, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	if name == "close" {
		return "saw " + resp.Header.Get("Saw")
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil && name != "early" {
		return err.Error()
	}
	return "saw " + resp.Header.Get("Saw")
}
