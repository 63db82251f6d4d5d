package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"time"
)

// wire is what HTTP goes over. Both ends of a hop speak the same.
type wire struct{ HTTP2, TLS bool }

// wires are all there are.
var wires = []wire{{}, {HTTP2: true}, {TLS: true}, {HTTP2: true, TLS: true}}

// suffix is that of the roles that speak it.
func (w wire) suffix() string {
	s := ""
	if w.HTTP2 {
		s += "-h2"
	}
	if w.TLS {
		s += "-tls"
	}
	return s
}

func (w wire) scheme() string {
	if w.TLS {
		return "https"
	}
	return "http"
}

// protocols leave a program no choice.
func (w wire) protocols() *http.Protocols {
	p := &http.Protocols{}
	p.SetHTTP1(!w.HTTP2)
	p.SetHTTP2(w.HTTP2 && w.TLS)
	p.SetUnencryptedHTTP2(w.HTTP2 && !w.TLS)
	return p
}

// listen opens address. With TLS the listener has a certificate of its own, for this
// host alone; authority, in PEM, is what a client must trust.
func (w wire) listen(address string) (_ net.Listener, config *tls.Config, authority string, err error) {
	if w.TLS {
		if config, authority, err = certificate(); err != nil {
			return nil, nil, "", err
		}
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, nil, "", fmt.Errorf("listen: %w", err)
	}
	return listener, config, authority, nil
}

// serve answers on a listener until the process ends or close is called. What comes
// over another wire fails, or the section would have the wrong name.
func (w wire) serve(listener net.Listener, config *tls.Config, handler http.HandlerFunc) (close func() error) {
	s := &http.Server{ReadHeaderTimeout: time.Minute, Protocols: w.protocols(), TLSConfig: config,
		Handler: http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
			if came := (wire{HTTP2: r.ProtoMajor == 2, TLS: r.TLS != nil}); came != w {
				http.Error(out, fmt.Sprintf("came over %+v, want %+v", came, w), http.StatusHTTPVersionNotSupported)
				return
			}
			handler(out, r)
		})}
	go func() {
		if config != nil {
			_ = s.ServeTLS(listener, "", "")
		} else {
			_ = s.Serve(listener)
		}
	}()
	return s.Close
}

// transport is a client's, to servers of this authority.
func (w wire) transport(authority string) (*http.Transport, error) {
	t := &http.Transport{DisableCompression: true, Protocols: w.protocols()}
	if w.TLS {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(authority)) {
			return nil, errors.New("trust the server: its certificate is not PEM")
		}
		t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
	}
	return t, nil
}

// certificate is one for 127.0.0.1, made now.
func certificate() (_ *tls.Config, authority string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", fmt.Errorf("make a key: %w", err)
	}
	of := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, of, of, &key.PublicKey, key)
	if err != nil {
		return nil, "", fmt.Errorf("make a certificate: %w", err)
	}
	authority = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13}, authority, nil
}
