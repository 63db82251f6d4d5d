package loader

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"                      //nolint:depguard // the client under test
	"google.golang.org/grpc/credentials/insecure" //nolint:depguard // the same
	"google.golang.org/grpc/metadata"             //nolint:depguard // the same
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// parents counts the traceparents that a server was sent.
type parents struct {
	mu   sync.Mutex
	seen map[string]int
	odd  int // requests with none, or several
}

func (p *parents) add(values []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(values) != 1 {
		p.odd++
		return
	}
	p.seen[values[0]]++
}

// joining dials into the sockhash and remembers the connection.
type joining struct {
	rig  *http2Rig
	mu   sync.Mutex
	conn net.Conn
}

func (j *joining) dial(ctx context.Context, _, address string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", address)
	if err != nil {
		return nil, err
	}
	if err := withFD(c.(*net.TCPConn), j.rig.l.inject.add); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.conn != nil {
		return nil, errors.Join(errors.New("a second connection"), c.Close())
	}
	j.conn = c
	return c, nil
}

// drive makes one call by itself and leaves it alone, then many at once with a
// departure for each, and wants every one of these at the server, once.
func drive(t *testing.T, r *http2Rig, j *joining, p *parents, calls int, call func(i int) error) {
	t.Helper()
	if err := call(0); err != nil {
		t.Fatal(err)
	}
	sk, tuple := r.socketOf(j.conn)
	want := map[string]bool{}
	for i := range calls {
		d := &departure{write: HeaderTraceparent, flags: 1}
		binary.BigEndian.PutUint64(d.traceID[8:], uint64(i)+1)
		binary.BigEndian.PutUint64(d.spanID[:], uint64(i)+1)
		want[d.fields()[0].Value] = true
		if err := r.leave(sk, tuple, uint32(3+2*i), d); err != nil {
			t.Fatal(err)
		}
	}
	work := make(chan int)
	failed := make(chan error, calls)
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for i := range work {
				if err := call(1 + i); err != nil {
					failed <- err
				}
			}
		})
	}
	for i := range calls {
		work <- i
	}
	close(work)
	all.Wait()
	close(failed)
	for err := range failed {
		t.Fatal(err)
	}
	refused := int(r.since("refused_room") + r.since("refused_memory") + r.since("refused_split"))
	for value, n := range p.seen {
		if n != 1 || !want[value] {
			t.Errorf("%s came %d times", value, n)
		}
	}
	t.Logf("%d calls, %d written, %d refused for want of room or memory, or split", calls, len(p.seen), refused)
	if len(p.seen)+refused != calls || p.odd != 1+refused {
		t.Errorf("%d of %d calls came with a traceparent, %d without, %d refused; counted: %v", len(p.seen), calls, p.odd, refused, r.moved())
	}
	if refused > calls/20 {
		t.Error("hardly anything was tested")
	}
}

// http2Transport runs the client and the server of net/http.
func http2Transport(t *testing.T, r *http2Rig) {
	const calls = 3000
	p := &parents{seen: map[string]int{}}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Protocols: &protocols, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		p.add(req.Header.Values("traceparent"))
		io.Copy(w, req.Body) //nolint:errcheck // the client compares what comes
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	j := &joining{rig: r}
	transport := &http.Transport{Protocols: &protocols, DialContext: j.dial}
	client := &http.Client{Transport: transport}
	drive(t, r, j, p, calls, func(i int) error {
		body := bytes.Repeat([]byte{byte(i)}, i*7%3000)
		req, err := http.NewRequest(http.MethodPost, fmt.Sprintf("http://%s/%d", listener.Addr(), i), bytes.NewReader(body))
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		got, err := io.ReadAll(resp.Body)
		if err == nil && (resp.StatusCode != http.StatusOK || !bytes.Equal(got, body)) {
			err = fmt.Errorf("call %d: %s with %d bytes, want %d", i, resp.Status, len(got), len(body))
		}
		return errors.Join(err, resp.Body.Close())
	})
	transport.CloseIdleConnections()
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// http2GRPC runs the client and the server of grpc-go, which puts the frames of
// many calls into one send.
func http2GRPC(t *testing.T, r *http2Rig) {
	const calls = 3000
	p := &parents{seen: map[string]int{}}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(stream.Context())
		p.add(md.Get("traceparent"))
		var in wrapperspb.BytesValue
		if err := stream.RecvMsg(&in); err != nil {
			return err
		}
		return stream.SendMsg(&in)
	}))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	j := &joining{rig: r}
	client, err := grpc.NewClient("passthrough:///"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return j.dial(ctx, "", address) }))
	if err != nil {
		t.Fatal(err)
	}
	drive(t, r, j, p, calls, func(i int) error {
		body := bytes.Repeat([]byte{byte(i)}, i*7%3000)
		var out wrapperspb.BytesValue
		if err := client.Invoke(context.Background(), "/weft.Test/Echo", wrapperspb.Bytes(body), &out); err != nil {
			return err
		}
		if !bytes.Equal(out.GetValue(), body) {
			return fmt.Errorf("call %d: %d bytes came back, want %d", i, len(out.GetValue()), len(body))
		}
		return nil
	})
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	server.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
