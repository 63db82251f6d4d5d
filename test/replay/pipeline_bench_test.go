package replay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // accepts what a client compresses
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"

	"weft/correlate"
	"weft/export"
	"weft/internal/event"
	"weft/internal/selfstats"
	"weft/loader"
)

// sinkVariable makes this test binary the receiver of a benchmark's spans: in a
// process of its own, its CPU time is not that of what is measured.
const sinkVariable = "WEFT_REPLAY_SINK"

func TestMain(m *testing.M) {
	if os.Getenv(sinkVariable) != "" {
		if err := countSpans(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "sink:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// countSpans serves OTLP over gRPC, prints its address, and when in ends what
// it got: spans, and bytes before compression.
func countSpans(in io.Reader, out io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var spans, size atomic.Int64
	s := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		var message []byte
		if err := stream.RecvMsg(&message); err != nil {
			return err
		}
		var request collectorpb.ExportTraceServiceRequest
		if err := proto.Unmarshal(message, &request); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		for _, r := range request.ResourceSpans {
			for _, scope := range r.ScopeSpans {
				spans.Add(int64(len(scope.Spans)))
			}
		}
		size.Add(int64(len(message)))
		return stream.SendMsg([]byte(nil)) // an empty ExportTraceServiceResponse
	}))
	go func() { _ = s.Serve(l) }() // until Stop
	defer s.Stop()
	if _, err := fmt.Fprintln(out, l.Addr()); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, spans.Load(), size.Load())
	return err
}

// raw leaves messages as they are on the wire.
type raw struct{}

func (raw) Name() string { return "raw" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("marshal a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("unmarshal into a %T", v)
	}
	*b = data.Materialize()
	return nil
}

// startSink returns where the sink listens, and a function that ends it and says
// what it got.
func startSink(b *testing.B) (address string, stop func() (spans, size int64)) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), sinkVariable+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	if _, err := fmt.Fscanln(out, &address); err != nil {
		b.Fatal(err)
	}
	return address, func() (spans, size int64) {
		_, err := fmt.Fscanln(io.MultiReader(closer{in}, out), &spans, &size)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			b.Fatal(err)
		}
		return spans, size
	}
}

// closer closes when it is read, and is empty.
type closer struct{ io.Closer }

func (c closer) Read([]byte) (int, error) {
	if err := c.Close(); err != nil {
		return 0, err
	}
	return 0, io.EOF
}

// hops is the recording of requests from one program to another over kept-alive
// connections, each with a path of its own: four records and two spans a request.
func hops(requests int) (recording []byte, end func(requests int) int) {
	const connections = 32
	recording = append(recording, "WEFTRING"...)
	recording = binary.LittleEndian.AppendUint32(recording, 2) // WEFT_ABI_VERSION
	recording = binary.LittleEndian.AppendUint32(recording, 0)
	var ends []int
	for n := range requests {
		now := uint64(time.Second) + uint64(n)*uint64(50*time.Microsecond)
		client, server := netip.MustParseAddr("::ffff:10.0.0.1").As16(), netip.MustParseAddr("::ffff:10.0.0.2").As16()
		port := uint16(40000 + n%connections)
		request := loader.WeftWeftRequest{
			StartNs: now, Socket: uint64(port), ProcessStartNs: 1, Tgid: 100, Tid: 101,
			LocalAddr: client, RemoteAddr: server, LocalPort: port, RemotePort: 8080,
			Role: uint8(event.RoleClient), TraceFlags: 1, Propagation: uint8(event.PropagationInjected), Http: uint8(event.ProtocolMinor),
		}
		binary.BigEndian.PutUint64(request.TraceId[8:], uint64(n+1))
		binary.BigEndian.PutUint64(request.SpanId[:], uint64(2*n+1))
		put(request.Method[:], &request.MethodLen, "GET")
		put(request.Target[:], &request.TargetLen, fmt.Sprintf("/cart/items/%d?page=2", n))
		put(request.Host[:], &request.HostLen, "shop.example:8080")
		request.TargetTotal = request.TargetLen
		recording = frame(recording, &request.Head, loader.WeftWeftEventTypeWEFT_EVENT_REQUEST, &request)

		answer := loader.WeftWeftResponse{FirstByteNs: now + 40_000, EndNs: now + 45_000, ResponseBody: 120, Status: 200}
		received := request
		received.Tgid, received.Tid, received.StartNs = 200, 201, now+10_000
		received.LocalAddr, received.RemoteAddr = server, client
		received.LocalPort, received.RemotePort = 8080, port
		received.Role, received.ParentRule, received.Propagation = uint8(event.RoleServer), uint8(event.ParentWire), 0
		received.ParentId = request.SpanId
		binary.BigEndian.PutUint64(received.SpanId[:], uint64(2*n+2))
		recording = frame(recording, &received.Head, loader.WeftWeftEventTypeWEFT_EVENT_REQUEST, &received)
		answer.SpanId, answer.Role = received.SpanId, received.Role
		recording = frame(recording, &answer.Head, loader.WeftWeftEventTypeWEFT_EVENT_RESPONSE, &answer)
		answer.SpanId, answer.Role = request.SpanId, request.Role
		recording = frame(recording, &answer.Head, loader.WeftWeftEventTypeWEFT_EVENT_RESPONSE, &answer)
		ends = append(ends, len(recording))
	}
	return recording, func(requests int) int { return ends[requests-1] }
}

func put[N uint8 | uint16](into []byte, length *N, text string) { *length = N(copy(into, text)) }

func frame[T any](recording []byte, head *loader.WeftWeftEventHead, kind loader.WeftWeftEventType, record *T) []byte {
	size := unsafe.Sizeof(*record)
	*head = loader.WeftWeftEventHead{Type: uint16(kind), Version: 2, Length: uint32(size), KtimeNs: uint64(time.Second)}
	recording = binary.LittleEndian.AppendUint32(recording, uint32(size))
	recording = binary.LittleEndian.AppendUint32(recording, 0)
	recording = binary.LittleEndian.AppendUint64(recording, uint64(Epoch.UnixNano()))
	return append(recording, unsafe.Slice((*byte)(unsafe.Pointer(record)), size)...)
}

// BenchmarkPipeline is what a request costs from the ring's records to a
// receiver in another process: decode, correlate, convert, send. One operation is
// a request, which is two spans. The time to look at is cpu-µs/op, of all threads
// of this process; ns/op has the sink's time in it. What the kernel side and the
// sleeping on the ring cost is not in it (see bench).
func BenchmarkPipeline(b *testing.B) {
	for _, compression := range []string{"none", "gzip"} {
		b.Run(compression, func(b *testing.B) { benchmarkPipeline(b, compression) })
	}
}

func benchmarkPipeline(b *testing.B, compression string) {
	const most = 4096 // requests at a time: half a queue of spans
	recording, end := hops(most)
	address, stop := startSink(b)
	stats := selfstats.New()
	settings, err := export.ResolveOTLP(export.OTLPOptions{Endpoint: "http://" + address, Compression: compression})
	if err != nil {
		b.Fatal(err)
	}
	convert, err := export.NewConverter(export.ConverterOptions{Version: "0.0.0-replay", HostName: "replay"})
	if err != nil {
		b.Fatal(err)
	}
	otlp, err := export.NewOTLP(settings, convert, stats, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	c := correlate.New(correlate.Options{}, export.Fanout{otlp}, stats)
	for pid, name := range map[uint32]string{100: "cart", 200: "shop"} {
		c.Process(&event.Process{PID: pid, PIDStart: 1, Service: name, ServiceInstance: name + "-1", Exe: "/opt/shop/" + name,
			Resource: map[string]string{"deployment.environment.name": "test", "k8s.namespace.name": "shop", "k8s.pod.name": name + "-0"}})
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime(b)
	for left := b.N; left > 0; {
		n := min(left, most)
		left -= n
		if err := loader.Replay(bytes.NewReader(recording[:end(n)]), c); err != nil {
			b.Fatal(err)
		}
		for want := float64(2 * (b.N - left)); left > 0 && selfstats.Value(stats.Exported("otlp")) < want-export.DefaultBatchSize; {
			time.Sleep(time.Millisecond)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := otlp.Close(ctx); err != nil {
		b.Fatal(err)
	}
	cpu := cpuTime(b) - before
	b.StopTimer()
	spans, size := stop()
	if rows, err := stats.Summary(); err != nil || len(rows) > 0 || spans != int64(2*b.N) {
		b.Fatalf("%d spans arrived of %d; lost %v, %v", spans, 2*b.N, rows, err)
	}
	b.ReportMetric(float64(cpu)/float64(time.Microsecond)/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(size)/float64(spans), "B/span")
}

// cpuTime is what all threads of this process used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
