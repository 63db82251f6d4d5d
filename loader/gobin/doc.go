// Package gobin reads a Go executable without running it: where weft's probes go,
// and where the fields are that its programs read.
//
// What is probed is in targets; docs/go.md says which instruction of it, and why.
// The arguments of the functions, by the index of the integer register that holds
// each (amd64: rax rbx rcx rdi rsi r8 r9 r10 r11; arm64: x0 to x15), as they are in
// the sources of Go 1.19 to 1.26, golang.org/x/net 0.1 to 0.60 and grpc 1.50 to 1.85:
//
//	serverHandler.ServeHTTP(rw, req)             0 server, 1 2 rw, 3 req
//	(*persistConn).roundTrip(req)                0 pc, 1 req (*transportRequest)
//	(*Request).write calls WriteString(w, s)     0 1 w, 2 3 s
//	(*Conn).Write(b)                             0 c, 1 2 3 b
//	ReadResponse calls readTransfer(msg, r)      0 1 msg (*Response), 2 r
//	(*Transport).tryPutIdleConn(pc)              0 t, 1 pc
//	(*persistConn).closeLocked(err)              0 pc, 1 2 err
//	(*serverConn).newWriterAndRequest(st, f)     0 sc, 1 st, 2 f
//	(*serverConn).runHandler(rw, req, handler)   0 sc, 1 rw, 2 req, 3 handler
//	(*serverConn).closeStream(st, err)           0 sc, 1 st, 2 3 err
//	(*serverConn).resetStream(se)                0 sc, 1 StreamID, 2 Code, 3 4 Cause
//	(*ClientConn).roundTrip(req, …)              0 cc, 1 req; RoundTrip has the same
//	(*clientStream).encodeAndWriteHeaders(req)   0 cs, 1 req
//	(*ClientConn).writeHeaders calls WriteHeaders(p)
//	                                             0 framer; p is on the stack, in all versions
//	(*clientConnReadLoop).handleResponse(cs, f)  0 rl, 1 cs, 2 f
//	(*clientStream).cleanupWriteRequest(err)     0 cs, 1 2 err
//	(*Server).handleStream(t, stream, …)         0 s, 1 2 t, 3 stream
//	(*http2Server).writeStatus(s, st)            0 t, 1 s, 2 st; WriteStatus to grpc 1.68
//	(*http2Server).closeStream(s, rst, code, …)  0 t, 1 s, 2 rst, 3 code
//	(*http2Client).NewStream(ctx, hdr, …)        0 t, 1 2 ctx, 3 hdr
//	NewStream calls executeAndPut(f, it)         0 buffer, 1 f, 2 3 it (the headers)
//	(*http2Client).closeStream(s, err, …)        0 t, 1 s, 2 3 err
//	(*serverHandlerTransport).writeStatus(s, st) 0 ht, 1 s, 2 st
//	(*loopyWriter).originateStream and others    see originates
package gobin
