package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

// idle is how many connections are kept towards the back end.
const idle = 256

// serve serves by a protocol:
//
//	http1    HTTP/1.1
//	https    HTTP/1.1 over TLS
//	h2       net/http's own HTTP/2, over TLS
//	h2x      golang.org/x/net/http2 over TLS
//	h2c      golang.org/x/net/http2 in plaintext
//	h2c-std  net/http's own HTTP/2 in plaintext, Go 1.24 and later
func serve(protocol string, srv *http.Server, l net.Listener) error {
	switch protocol {
	case "http1":
		return srv.Serve(l)
	case "h2c":
		srv.Handler = h2c.NewHandler(srv.Handler, &http2.Server{})
		return srv.Serve(l)
	case "h2c-std":
		if err := plainHTTP2Server(srv); err != nil {
			return err
		}
		return srv.Serve(l)
	case "https", "h2", "h2x":
	default:
		return fmt.Errorf("protocol %q: want http1, https, h2, h2c, h2c-std or h2x", protocol)
	}
	cert, err := certificate()
	if err != nil {
		return err
	}
	srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	switch protocol {
	case "https":
		// A map that is not nil keeps net/http from adding HTTP/2.
		srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	case "h2x":
		if err := http2.ConfigureServer(srv, &http2.Server{}); err != nil {
			return err
		}
	}
	return srv.ServeTLS(l, "", "")
}

// newClient calls by the same protocols; conns bounds the connections of HTTP/1.
func newClient(protocol string, conns int) (*http.Client, error) {
	// The certificate is made at start and lives in the server's memory alone.
	trust := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec
	std := &http.Transport{MaxIdleConns: idle, MaxIdleConnsPerHost: idle, MaxConnsPerHost: conns, TLSClientConfig: trust}
	switch protocol {
	case "http1", "https":
		return &http.Client{Transport: std}, nil
	case "h2":
		std.ForceAttemptHTTP2 = true
		return &http.Client{Transport: std}, nil
	case "h2c-std":
		if err := plainHTTP2Client(std); err != nil {
			return nil, err
		}
		return &http.Client{Transport: std}, nil
	case "h2x":
		return &http.Client{Transport: &http2.Transport{TLSClientConfig: trust}}, nil
	case "h2c":
		dial := func(network, addr string, _ *tls.Config) (net.Conn, error) { return net.Dial(network, addr) }
		return &http.Client{Transport: &http2.Transport{AllowHTTP: true, DialTLS: dial}}, nil
	}
	return nil, fmt.Errorf("protocol %q: want http1, https, h2, h2c, h2c-std or h2x", protocol)
}

func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "gomatrix"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Now().Add(24 * 365 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
