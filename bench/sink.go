package main

import (
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // accepts what a client compresses
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

// received is what the sink got since it started.
type received struct {
	Address string
	Spans   uint64
}

// sink takes OTLP over gRPC and counts spans without decoding them: it shares
// the machine with what is measured.
func sink(in io.Reader, out io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for OTLP: %w", err)
	}
	var spans atomic.Uint64
	s := grpc.NewServer(grpc.MaxRecvMsgSize(64<<20), grpc.ForceServerCodecV2(rawCodec{}),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			var message []byte
			if err := stream.RecvMsg(&message); err != nil {
				return err
			}
			n, err := countSpans(message)
			if err != nil {
				return status.Error(codes.InvalidArgument, err.Error())
			}
			spans.Add(n)
			return stream.SendMsg([]byte(nil)) // an empty ExportTraceServiceResponse
		}))
	go func() { _ = s.Serve(listener) }() // until Stop
	defer s.Stop()
	return answer(in, out, func(struct{}) (received, error) {
		return received{listener.Addr().String(), spans.Load()}, nil
	})
}

// rawCodec leaves messages as they are on the wire.
type rawCodec struct{}

func (rawCodec) Name() string { return "raw" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("marshal a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("unmarshal into a %T", v)
	}
	*b = data.Materialize()
	return nil
}

// countSpans counts resource_spans (1) → scope_spans (2) → spans (2) of an
// ExportTraceServiceRequest.
func countSpans(message []byte) (uint64, error) { return count(message, 1, 2, 2) }

func count(message []byte, path ...protowire.Number) (n uint64, err error) {
	for len(message) > 0 {
		number, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return 0, fmt.Errorf("read tag: %w", protowire.ParseError(size))
		}
		message = message[size:]
		if number != path[0] || kind != protowire.BytesType {
			if size = protowire.ConsumeFieldValue(number, kind, message); size < 0 {
				return 0, fmt.Errorf("read field %d: %w", number, protowire.ParseError(size))
			}
			message = message[size:]
			continue
		}
		inner, size := protowire.ConsumeBytes(message)
		if size < 0 {
			return 0, fmt.Errorf("read field %d: %w", number, protowire.ParseError(size))
		}
		message = message[size:]
		if len(path) == 1 {
			n++
			continue
		}
		more, err := count(inner, path[1:]...)
		if err != nil {
			return 0, err
		}
		n += more
	}
	return n, nil
}
