package export

import (
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // the receiver understands gzip
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// receiver is an OTLP receiver, gRPC or HTTP, that does as it is told.
type receiver struct {
	coltracepb.UnimplementedTraceServiceServer

	mu       sync.Mutex
	requests []*coltracepb.ExportTraceServiceRequest
	header   map[string][]string // of the last request
	path     string              // of the last request, HTTP
	wire     int                 // bytes of the last body as sent, HTTP
	tries    int
	// answer decides about the n-th request, from 1. nil takes everything.
	answer func(n int) reply
}

// reply is what a receiver says; zero: taken.
type reply struct {
	code     codes.Code // gRPC
	status   int        // HTTP
	retry    string     // Retry-After
	rejected int64
	hang     time.Duration
}

func (r *receiver) take(req *coltracepb.ExportTraceServiceRequest, header map[string][]string) reply {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tries++
	r.header = header
	var a reply
	if r.answer != nil {
		a = r.answer(r.tries)
	}
	if a.code == codes.OK && (a.status == 0 || a.status == 200) {
		r.requests = append(r.requests, req)
	}
	return a
}

func (r *receiver) Export(ctx context.Context, req *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	a := r.take(req, md)
	if a.hang > 0 {
		select {
		case <-time.After(a.hang):
		case <-ctx.Done():
		}
	}
	if a.code != codes.OK {
		return nil, status.Error(a.code, "told so")
	}
	return response(a), nil
}

func response(a reply) *coltracepb.ExportTraceServiceResponse {
	out := &coltracepb.ExportTraceServiceResponse{}
	if a.rejected > 0 {
		out.PartialSuccess = &coltracepb.ExportTracePartialSuccess{RejectedSpans: a.rejected, ErrorMessage: "some are (too) long"}
	}
	return out
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	raw, err := io.ReadAll(req.Body)
	body := raw
	if err == nil && req.Header.Get("Content-Encoding") == "gzip" {
		var z *gzip.Reader
		if z, err = gzip.NewReader(strings.NewReader(string(raw))); err == nil {
			body, err = io.ReadAll(z)
		}
	}
	msg := &coltracepb.ExportTraceServiceRequest{}
	if err == nil {
		err = proto.Unmarshal(body, msg)
	}
	if err != nil || req.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "not OTLP", http.StatusBadRequest)
		return
	}
	header := map[string][]string{}
	for k, v := range req.Header {
		header[strings.ToLower(k)] = v
	}
	a := r.take(msg, header)
	r.mu.Lock()
	r.path, r.wire = req.URL.Path, len(raw)
	r.mu.Unlock()
	if a.hang > 0 {
		select {
		case <-time.After(a.hang):
		case <-req.Context().Done(): // the client has given up
		}
	}
	if a.retry != "" {
		w.Header().Set("Retry-After", a.retry)
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	if a.status != 0 {
		w.WriteHeader(a.status)
	}
	out, _ := proto.Marshal(response(a))
	_, _ = w.Write(out)
}

// serve starts the receiver and returns its endpoint. tlsConf may be nil.
func (r *receiver) serve(t *testing.T, protocol string, tlsConf *tls.Config) string {
	t.Helper()
	scheme := "http://"
	if tlsConf != nil {
		scheme = "https://"
	}
	if protocol == ProtocolHTTP {
		srv := httptest.NewUnstartedServer(r)
		if tlsConf != nil {
			srv.TLS = tlsConf
			srv.StartTLS()
		} else {
			srv.Start()
		}
		t.Cleanup(srv.Close)
		return scheme + srv.Listener.Addr().String()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.serveGRPC(t, l, tlsConf)
	return scheme + l.Addr().String()
}

func (r *receiver) serveGRPC(t *testing.T, l net.Listener, tlsConf *tls.Config) {
	var opts []grpc.ServerOption
	if tlsConf != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(tlsConf)))
	}
	srv := grpc.NewServer(opts...)
	coltracepb.RegisterTraceServiceServer(srv, r)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
}

// awayAddress is an address that refuses connections until listen is called. It
// stays bound meanwhile: a port that was let go may be another's by then.
func awayAddress(t *testing.T) (address string, listen func() net.Listener) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fd), "away")
	t.Cleanup(func() { _ = socket.Close() })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint("127.0.0.1:", bound.(*syscall.SockaddrInet4).Port), func() net.Listener {
		t.Helper()
		if err := syscall.Listen(fd, 16); err != nil {
			t.Fatal(err)
		}
		l, err := net.FileListener(socket)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
}

// spans returns all that arrived.
func (r *receiver) spans() []*tracepb.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*tracepb.Span
	for _, req := range r.requests {
		for _, rs := range req.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				out = append(out, ss.Spans...)
			}
		}
	}
	return out
}

func (r *receiver) attempts() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tries
}

func (r *receiver) lastHeader(name string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.header[name])
}

// authority is a test CA with a server and a client certificate for 127.0.0.1.
type authority struct {
	server                  *tls.Config // demands a client certificate
	ca, clientPEM, keyPEM   string      // paths
	unrelated, notPEM, gone string      // paths
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, blocks ...*pem.Block) string {
		path := filepath.Join(dir, name)
		var out []byte
		for _, b := range blocks {
			out = append(out, pem.EncodeToMemory(b)...)
		}
		if err := os.WriteFile(path, out, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	issue := func(serial int64, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		if signer == nil {
			signer = key
		}
		template.SerialNumber = big.NewInt(serial)
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		must(err)
		return der, key
	}
	root := &x509.Certificate{
		Subject: pkix.Name{CommonName: "weft test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, rootKey := issue(1, root, root, nil)
	otherDER, _ := issue(9, &x509.Certificate{Subject: pkix.Name{CommonName: "another"}, IsCA: true, BasicConstraintsValid: true}, root, rootKey)
	leaf := func(serial int64) ([]byte, *ecdsa.PrivateKey) {
		return issue(serial, &x509.Certificate{
			Subject:     pkix.Name{CommonName: "leaf"},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			KeyUsage:    x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}, root, rootKey)
	}
	serverDER, serverKey := leaf(2)
	clientDER, clientKey := leaf(3)
	clientKeyDER, err := x509.MarshalPKCS8PrivateKey(clientKey)
	must(err)
	pool := x509.NewCertPool()
	rootCert, err := x509.ParseCertificate(rootDER)
	must(err)
	pool.AddCert(rootCert)
	return authority{
		server: &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{serverDER}, PrivateKey: serverKey}},
			ClientCAs:    pool,
			ClientAuth:   tls.RequireAndVerifyClientCert,
			NextProtos:   []string{"h2", "http/1.1"},
		},
		ca:        write("ca.pem", &pem.Block{Type: "CERTIFICATE", Bytes: rootDER}),
		clientPEM: write("client.pem", &pem.Block{Type: "CERTIFICATE", Bytes: clientDER}),
		keyPEM:    write("client.key", &pem.Block{Type: "PRIVATE KEY", Bytes: clientKeyDER}),
		unrelated: write("other.pem", &pem.Block{Type: "CERTIFICATE", Bytes: otherDER}),
		notPEM:    write("empty.pem"),
		gone:      filepath.Join(dir, "gone.pem"),
	}
}

// countingListener counts the bytes its connections receive.
type countingListener struct {
	net.Listener
	n atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countingConn{c, &l.n}, nil
}

func (l *countingListener) read() int64 { return l.n.Load() }

type countingConn struct {
	net.Conn
	n *atomic.Int64
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}
