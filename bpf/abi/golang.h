/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What user space tells the programs of bpf/go about one Go binary: where fields
 * are, and which of its instructions are attached. Offsets are data: from DWARF
 * or from the table in loader/gobin, never literals in C.
 */
#pragma once

/* net/http has its own copy of golang.org/x/net/http2, with other offsets. */
enum weft_go_flavour {
	WEFT_GO_BUNDLED = 0, /* net/http, or net/http/internal/http2 */
	WEFT_GO_XNET = 1,    /* golang.org/x/net/http2 */
	WEFT_GO_FLAVOURS = 2,
};

/*
 * A field: the offset in bytes from the start of its struct, of the struct's own
 * name as far as it is not obvious. loader/gobin has the same list with package,
 * struct and field.
 */
enum weft_go_field {
	WEFT_GO_G_GOID,
	WEFT_GO_G_M,
	WEFT_GO_G_PARENT_GOID, /* Go 1.21 */
	WEFT_GO_M_CURG,
	WEFT_GO_M_P,
	WEFT_GO_P_GOIDCACHE,
	WEFT_GO_P_GOIDCACHEEND,
	WEFT_GO_REQUEST_METHOD, /* net/http.Request */
	WEFT_GO_REQUEST_URL,
	WEFT_GO_REQUEST_HOST,
	WEFT_GO_REQUEST_CTX,
	WEFT_GO_REQUEST_PATTERN, /* Go 1.23 */
	WEFT_GO_URL_SCHEME,
	WEFT_GO_URL_HOST,
	WEFT_GO_URL_PATH,
	WEFT_GO_URL_RAWQUERY,
	WEFT_GO_RESPONSE_CONN, /* net/http.response, the server's */
	WEFT_GO_CONN_RWC,      /* net/http.conn */
	WEFT_GO_CONN_TLSSTATE,
	WEFT_GO_CONN_BUFR,
	WEFT_GO_READER_BUF, /* bufio.Reader */
	WEFT_GO_READER_R,
	WEFT_GO_READER_W,
	WEFT_GO_WRITER_BUF, /* bufio.Writer */
	WEFT_GO_WRITER_N,
	WEFT_GO_WRITER_WR,
	WEFT_GO_TRANSPORTREQUEST_REQUEST,
	WEFT_GO_PERSISTCONN_CONN,
	WEFT_GO_PERSISTCONN_TLSSTATE,
	WEFT_GO_PERSISTCONN_BR,
	WEFT_GO_PERSISTCONN_BW,
	WEFT_GO_TLS_CONN,	       /* crypto/tls.Conn.conn */
	WEFT_GO_TCPCONN_FD,	       /* net.TCPConn.conn.fd */
	WEFT_GO_NETFD_SYSFD,	       /* net.netFD.pfd.Sysfd */
	WEFT_GO_CLIENTRESPONSE_STATUS, /* net/http.Response.StatusCode */
	WEFT_GO_CLIENTRESPONSE_REQUEST,
	WEFT_GO_REQUEST_PROTOMAJOR,    /* net/http.Request */
	WEFT_GO_REQUEST_HEADER,
	WEFT_GO_CONTEXT_KEY,	       /* context.valueCtx */
	WEFT_GO_CONTEXT_VAL,
	WEFT_GO_TYPE_SIZE,	       /* internal/abi.Type, before Go 1.21 runtime._type */
	WEFT_GO_TYPE_KIND,
	WEFT_GO_G_SCHED,	       /* g.sched.sp; pc and g follow it */
	WEFT_GO_G_STKTOPSP,
	WEFT_GO_G_STARTPC,
	WEFT_GO_G_GOPC,
	WEFT_GO_WRITER_ERR, /* bufio.Writer */
	/* Per flavour: the field of flavour f is this + f * WEFT_GO_H2_FIELDS. */
	WEFT_GO_H2_FIRST = 48,
	WEFT_GO_H2_METAHEADERS_FRAME = WEFT_GO_H2_FIRST, /* MetaHeadersFrame.HeadersFrame */
	WEFT_GO_H2_METAHEADERS_FIELDS,
	WEFT_GO_H2_HEADERS_STREAMID,			 /* HeadersFrame.FrameHeader.StreamID */
	WEFT_GO_H2_HEADERS_FLAGS,
	WEFT_GO_H2_SERVERCONN_CONN,
	WEFT_GO_H2_SERVERCONN_TLSSTATE,
	WEFT_GO_H2_STREAM_ID,
	WEFT_GO_H2_STREAM_SC,
	WEFT_GO_H2_RESPONSEWRITER_RWS,
	WEFT_GO_H2_RWS_STREAM,
	WEFT_GO_H2_RWS_STATUS,
	WEFT_GO_H2_CLIENTSTREAM_ID,
	WEFT_GO_H2_CLIENTSTREAM_CC,
	WEFT_GO_H2_CLIENTCONN_TCONN,
	WEFT_GO_H2_CLIENTCONN_TLSSTATE,
	WEFT_GO_H2_CLIENTCONN_BW,
	WEFT_GO_H2_FRAMER_W,
	WEFT_GO_H2_FRAMER_WBUF,
	WEFT_GO_H2_CLIENTCONN_STREAMS,
	WEFT_GO_H2_FIELDS = 24,
	WEFT_GO_HPACK_NAME = WEFT_GO_H2_FIRST + 2 * WEFT_GO_H2_FIELDS, /* hpack.HeaderField */
	WEFT_GO_HPACK_VALUE,
	/* google.golang.org/grpc/internal/transport */
	WEFT_GO_GRPC_FIRST = 104,
	WEFT_GO_GRPC_STREAM_ID = WEFT_GO_GRPC_FIRST,
	WEFT_GO_GRPC_STREAM_CTX,
	WEFT_GO_GRPC_STREAM_METHOD,
	WEFT_GO_GRPC_CLIENT_CONN, /* http2Client.conn */
	WEFT_GO_GRPC_SERVER_CONN, /* http2Server.conn */
	WEFT_GO_GRPC_CALLHDR_HOST,
	WEFT_GO_GRPC_CALLHDR_METHOD,
	WEFT_GO_GRPC_HEADERFRAME_STREAMID,
	WEFT_GO_GRPC_HEADERFRAME_HF,
	WEFT_GO_GRPC_LOOPY_HBUF,
	WEFT_GO_GRPC_LOOPY_FRAMER,
	WEFT_GO_GRPC_FRAMER_FR,
	WEFT_GO_GRPC_STATUS_S,	  /* internal/status.Status.s */
	WEFT_GO_GRPC_STATUS_CODE, /* genproto rpc Status.Code */
	/*
	 * Of the pointer to Stream in a ServerStream or ClientStream (grpc 1.69 to 1.76).
	 * Unknown where the stream itself has the fields above.
	 */
	WEFT_GO_GRPC_SERVERSTREAM_STREAM,
	WEFT_GO_GRPC_CLIENTSTREAM_STREAM,
	/* Not used. */
	WEFT_GO_GRPC_FRAME_ARG,
	/* Not an offset: which argument register (0 is the first) of GRPC_ORIGINATE holds the headers. */
	WEFT_GO_GRPC_ORIGINATE_ARG,
	WEFT_GO_GRPC_CLIENT_FRAMER, /* http2Client.framer */
	WEFT_GO_GRPC_BUFWRITER_BUF,
	WEFT_GO_GRPC_BUFWRITER_OFFSET,
	WEFT_GO_GRPC_STREAM_STATE,
	WEFT_GO_GRPC_BUFWRITER_HANDLE, /* from grpc 1.84 on: of a pointer to what was BUF, or nil */
	/* Maps: internal/runtime/maps from Go 1.24 on, runtime.hmap before. */
	WEFT_GO_MAP_FIRST = 144,
	WEFT_GO_MAP_DIRPTR = WEFT_GO_MAP_FIRST,
	WEFT_GO_MAP_DIRLEN,
	WEFT_GO_MAP_TABLE_DATA, /* table.groups.data */
	WEFT_GO_MAP_TABLE_MASK, /* table.groups.lengthMask */
	WEFT_GO_HMAP_B,
	WEFT_GO_HMAP_BUCKETS,
	WEFT_GO_HMAP_OLDBUCKETS,
	/* Routers: github.com/go-chi/chi, github.com/gin-gonic/gin, github.com/gorilla/mux */
	WEFT_GO_ROUTER_FIRST = 152,
	WEFT_GO_CHI_PATTERNS = WEFT_GO_ROUTER_FIRST, /* chi.Context.RoutePatterns */
	WEFT_GO_CHI_PARENT,			     /* chi.Context.parentCtx */
	WEFT_GO_GIN_REQUEST,			     /* gin.Context.Request */
	WEFT_GO_GIN_WRITER,			     /* gin.Context.writermem.ResponseWriter */
	WEFT_GO_GIN_FULLPATH,			     /* gin.Context.fullPath */
	WEFT_GO_MUX_PATH,			     /* mux.Route.regexp.path */
	WEFT_GO_MUX_TEMPLATE,			     /* mux.routeRegexp.template */
	WEFT_GO_FIELDS = 160,
};

#define WEFT_GO_UNKNOWN 0xffff

/* Bits of struct weft_go_layout.flags. GOROUTINES with G_REGISTER: tls_g is not used. */
enum weft_go_flag {
	WEFT_GO_GOROUTINES = 1, /* goid and thread-local g are known: exec keys are goroutines */
	/*
	 * Offsets are of a version known whole: memory may be written. Without more bits
	 * that holds for HTTP/1 only.
	 */
	WEFT_GO_WRITES = 2,
	/* arm64 without cgo: g is in x28 of the user's registers, and nowhere in TLS */
	WEFT_GO_G_REGISTER = 4,
	WEFT_GO_WRITES_H2 = 8, /* of HTTP/2 of flavour f: this << f */
	WEFT_GO_WRITES_GRPC = 32,
	WEFT_GO_WROTE = 64,    /* there is a site GRPC_WROTE */
	/* Go 1.20: a context.timerCtx begins with a pointer to its cancelCtx, not with it */
	WEFT_GO_TIMER_POINTER = 128,
};

/* One per binary, shared by its processes. */
struct weft_go_layout {
	__u64 goidgen;	  /* address of runtime.sched.goidgen, before the load bias; 0: unknown */
	__u64 allp;	  /* address of runtime.allp, a slice of *p; likewise */
	__u64 allgs;	  /* address of runtime.allgs, a slice of *g; likewise */
	__u64 image;	  /* lowest address of the executable, likewise */
	__u64 image_size; /* bytes from there to the end of its highest segment */
	/*
	 * One bit per site: the probe sits on the jump of the stack check, the first
	 * emulated instruction there is (Go up to 1.20, and arm64). Where that jump will
	 * be taken, the stack grows and the function starts over: then the hit does not
	 * count. Taken on x86: CF or ZF of the flags; on arm64: C clear or Z set.
	 */
	__u64 guarded;
	/*
	 * Addresses of constants, before the load bias, which the programs learn when
	 * they can read them, to know them when they cannot; 0: none seen. Types of the
	 * context key and value that held a request's metadata.MD; the program's own
	 * name "traceparent", and "Traceparent".
	 */
	__u64 metadata[2];
	__u64 traceparent[2];
	__s32 tls_g; /* of the thread pointer: where g is kept */
	__u32 flags; /* enum weft_go_flag */
	__u16 offset[WEFT_GO_FIELDS];
};

/*
 * What is attached; the cookie of a uprobe, and the slot of its work program. The
 * comment names the function and which instruction of it.
 */
enum weft_go_site {
	WEFT_GO_SITE_NONE,
	WEFT_GO_SITE_SERVE,	/* net/http.serverHandler.ServeHTTP, entry */
	WEFT_GO_SITE_ROUNDTRIP, /* net/http.(*persistConn).roundTrip, entry */
	WEFT_GO_SITE_WRITE,	/* net/http.(*Request).write, its call of io.WriteString */
	/* Attached to a process once it is seen to use HTTP/1 over TLS. */
	WEFT_GO_SITE_TLS_WRITE,	   /* crypto/tls.(*Conn).Write, entry */
	WEFT_GO_SITE_TLS_RESPONSE, /* net/http.ReadResponse, its call of readTransfer */
	WEFT_GO_SITE_TLS_IDLE,	   /* net/http.(*Transport).tryPutIdleConn, entry */
	WEFT_GO_SITE_TLS_CLOSE,	   /* net/http.(*persistConn).closeLocked, entry */
	/* HTTP/2, per flavour: that of flavour f is this + f * WEFT_GO_SITE_H2_COUNT. */
	WEFT_GO_SITE_H2_FIRST = 8,
	WEFT_GO_SITE_H2_SERVER_HEADERS =
		WEFT_GO_SITE_H2_FIRST, /* (*serverConn).newWriterAndRequest, entry */
	WEFT_GO_SITE_H2_HANDLER,       /* (*serverConn).runHandler, entry */
	WEFT_GO_SITE_H2_SERVER_END,    /* (*serverConn).closeStream, entry */
	WEFT_GO_SITE_H2_REQUEST,       /* (*clientStream).encodeAndWriteHeaders, entry */
	WEFT_GO_SITE_H2_WRITE, /* (*ClientConn).writeHeaders, its call of (*Framer).WriteHeaders */
	WEFT_GO_SITE_H2_RESPONSE,     /* (*clientConnReadLoop).handleResponse, entry */
	WEFT_GO_SITE_H2_CLIENT_END,   /* (*clientStream).cleanupWriteRequest, entry */
	WEFT_GO_SITE_H2_SERVER_RESET, /* (*serverConn).resetStream, entry */
	WEFT_GO_SITE_H2_COUNT = 8,
	/* google.golang.org/grpc */
	WEFT_GO_SITE_GRPC_FIRST = 24,
	WEFT_GO_SITE_GRPC_SERVER_HEADERS =
		WEFT_GO_SITE_GRPC_FIRST, /* not attached: HANDLER finds the headers */
	WEFT_GO_SITE_GRPC_HANDLER,	 /* (*Server).handleStream, entry */
	WEFT_GO_SITE_GRPC_STATUS,	 /* (*http2Server).WriteStatus or writeStatus, entry */
	WEFT_GO_SITE_GRPC_SERVER_END,	 /* (*http2Server).closeStream, entry */
	WEFT_GO_SITE_GRPC_NEWSTREAM,	 /* (*http2Client).NewStream, entry */
	WEFT_GO_SITE_GRPC_QUEUED,	 /* (*http2Client).NewStream, its call of executeAndPut */
	WEFT_GO_SITE_GRPC_WRITE, /* (*loopyWriter).writeHeader, its call of (*Framer).WriteHeaders */
	WEFT_GO_SITE_GRPC_CLIENT_END, /* (*http2Client).closeStream, entry */
	/* (*ClientConn).roundTrip, else RoundTrip, entry; that of flavour f is this + f */
	WEFT_GO_SITE_H2_ROUNDTRIP = 32,
	/*
	 * (*loopyWriter).clientHeaderHandler or originateStream, entry. Up to grpc 1.52
	 * headerHandler, which has servers' headers too.
	 */
	WEFT_GO_SITE_GRPC_ORIGINATE = 34,
	/* (*serverHandlerTransport).WriteStatus or writeStatus, entry */
	WEFT_GO_SITE_GRPC_HANDLER_STATUS,
	WEFT_GO_SITE_SERVE_TLS, /* not attached: where SERVE goes on for HTTP/1 over TLS */
	/*
	 * (*loopyWriter).clientHeaderHandler or originateStream, behind its call of
	 * writeHeader. Where a connection has a write buffer only while it writes (grpc 1.80).
	 */
	WEFT_GO_SITE_GRPC_WROTE,
	/* Of the second flavour, by name. */
	WEFT_GO_SITE_XNET_SERVER_HEADERS = WEFT_GO_SITE_H2_SERVER_HEADERS + WEFT_GO_SITE_H2_COUNT,
	WEFT_GO_SITE_XNET_HANDLER,
	WEFT_GO_SITE_XNET_SERVER_END,
	WEFT_GO_SITE_XNET_REQUEST,
	WEFT_GO_SITE_XNET_WRITE,
	WEFT_GO_SITE_XNET_RESPONSE,
	WEFT_GO_SITE_XNET_CLIENT_END,
	WEFT_GO_SITE_XNET_SERVER_RESET,
	WEFT_GO_SITE_XNET_ROUNDTRIP = WEFT_GO_SITE_H2_ROUNDTRIP + 1,
	/* Routers. */
	WEFT_GO_SITE_CHI_BEGIN = 40, /* chi.(*Mux).ServeHTTP, its call of context.WithValue */
	WEFT_GO_SITE_CHI_END,	     /* the same, its call of sync.(*Pool).Put */
	WEFT_GO_SITE_GIN_BEGIN,	     /* gin.(*Engine).handleHTTPRequest, entry */
	WEFT_GO_SITE_GIN_END,	     /* gin.(*Engine).ServeHTTP, its call of sync.(*Pool).Put */
	/* gin.(*Engine).handleHTTPRequest, its call of Next: then not the two before */
	WEFT_GO_SITE_GIN_ROUTE,
	WEFT_GO_SITE_MUX_ROUTE, /* mux.requestWithRoute, entry */
	WEFT_GO_SITES = 48,
};

_Static_assert(WEFT_GO_WRITER_ERR < WEFT_GO_H2_FIRST, "fields overlap");
_Static_assert(WEFT_GO_HPACK_VALUE < WEFT_GO_GRPC_FIRST, "fields overlap");
_Static_assert(WEFT_GO_GRPC_BUFWRITER_HANDLE < WEFT_GO_MAP_FIRST, "fields overlap");
_Static_assert(WEFT_GO_HMAP_OLDBUCKETS < WEFT_GO_ROUTER_FIRST, "fields overlap");
_Static_assert(WEFT_GO_MUX_TEMPLATE < WEFT_GO_FIELDS, "too many fields");
_Static_assert(sizeof(struct weft_go_layout) == 88 + 2 * WEFT_GO_FIELDS, "layout");
