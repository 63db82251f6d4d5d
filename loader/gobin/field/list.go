package field

// Import paths.
const (
	http      = "net/http"
	http2     = "net/http/internal/http2" // the bundled HTTP/2, from Go 1.27 on
	xnet      = "golang.org/x/net/http2"
	hpack     = "golang.org/x/net/http2/hpack"
	transport = "google.golang.org/grpc/internal/transport"
	status    = "google.golang.org/grpc/internal/status"
	rpc       = "google.golang.org/genproto/googleapis/rpc/status"
	maps      = "internal/runtime/maps"
	abi       = "internal/abi"
	chi       = "github.com/go-chi/chi/v5"
	oldChi    = "github.com/go-chi/chi"
	gin       = "github.com/gin-gonic/gin"
	mux       = "github.com/gorilla/mux"
)

type entry struct {
	name string
	at   []Location
}

func at(pkg, typ, path string) []Location {
	return []Location{{Package: pkg, Struct: typ, Path: path}}
}

var list = listed()

func listed() [Count]entry {
	var l [Count]entry
	for f, e := range map[Field]entry{
		GGoid:                   {"G_GOID", at("runtime", "g", "goid")},
		GM:                      {"G_M", at("runtime", "g", "m")},
		GParentGoid:             {"G_PARENT_GOID", at("runtime", "g", "parentGoid")},
		MCurg:                   {"M_CURG", at("runtime", "m", "curg")},
		MP:                      {"M_P", at("runtime", "m", "p")},
		PGoidcache:              {"P_GOIDCACHE", at("runtime", "p", "goidcache")},
		PGoidcacheend:           {"P_GOIDCACHEEND", at("runtime", "p", "goidcacheend")},
		RequestMethod:           {"REQUEST_METHOD", at(http, "Request", "Method")},
		RequestURL:              {"REQUEST_URL", at(http, "Request", "URL")},
		RequestHost:             {"REQUEST_HOST", at(http, "Request", "Host")},
		RequestCtx:              {"REQUEST_CTX", at(http, "Request", "ctx")},
		RequestPattern:          {"REQUEST_PATTERN", at(http, "Request", "Pattern")},
		URLScheme:               {"URL_SCHEME", at("net/url", "URL", "Scheme")},
		URLHost:                 {"URL_HOST", at("net/url", "URL", "Host")},
		URLPath:                 {"URL_PATH", at("net/url", "URL", "Path")},
		URLRawQuery:             {"URL_RAWQUERY", at("net/url", "URL", "RawQuery")},
		ResponseConn:            {"RESPONSE_CONN", at(http, "response", "conn")},
		ConnRwc:                 {"CONN_RWC", at(http, "conn", "rwc")},
		ConnTLSState:            {"CONN_TLSSTATE", at(http, "conn", "tlsState")},
		ConnBufr:                {"CONN_BUFR", at(http, "conn", "bufr")},
		ReaderBuf:               {"READER_BUF", at("bufio", "Reader", "buf")},
		ReaderR:                 {"READER_R", at("bufio", "Reader", "r")},
		ReaderW:                 {"READER_W", at("bufio", "Reader", "w")},
		WriterBuf:               {"WRITER_BUF", at("bufio", "Writer", "buf")},
		WriterN:                 {"WRITER_N", at("bufio", "Writer", "n")},
		WriterWr:                {"WRITER_WR", at("bufio", "Writer", "wr")},
		TransportRequestRequest: {"TRANSPORTREQUEST_REQUEST", at(http, "transportRequest", "Request")},
		PersistConnConn:         {"PERSISTCONN_CONN", at(http, "persistConn", "conn")},
		PersistConnTLSState:     {"PERSISTCONN_TLSSTATE", at(http, "persistConn", "tlsState")},
		PersistConnBr:           {"PERSISTCONN_BR", at(http, "persistConn", "br")},
		PersistConnBw:           {"PERSISTCONN_BW", at(http, "persistConn", "bw")},
		TLSConn:                 {"TLS_CONN", at("crypto/tls", "Conn", "conn")},
		TCPConnFD:               {"TCPCONN_FD", at("net", "TCPConn", "conn.fd")},
		NetFDSysfd:              {"NETFD_SYSFD", at("net", "netFD", "pfd.Sysfd")},
		ClientResponseStatus:    {"CLIENTRESPONSE_STATUS", at(http, "Response", "StatusCode")},
		ClientResponseRequest:   {"CLIENTRESPONSE_REQUEST", at(http, "Response", "Request")},

		GSched:    {"G_SCHED", at("runtime", "g", "sched.sp")},
		GStktopsp: {"G_STKTOPSP", at("runtime", "g", "stktopsp")},
		GStartpc:  {"G_STARTPC", at("runtime", "g", "startpc")},
		GGopc:     {"G_GOPC", at("runtime", "g", "gopc")},
		WriterErr: {"WRITER_ERR", at("bufio", "Writer", "err")},

		RequestProtoMajor: {"REQUEST_PROTOMAJOR", at(http, "Request", "ProtoMajor")},
		RequestHeader:     {"REQUEST_HEADER", at(http, "Request", "Header")},
		ContextKey:        {"CONTEXT_KEY", at("context", "valueCtx", "key")},
		ContextVal:        {"CONTEXT_VAL", at("context", "valueCtx", "val")},
		TypeSize:          {"TYPE_SIZE", append(at(abi, "Type", "Size_"), at("runtime", "_type", "size")...)},
		TypeKind:          {"TYPE_KIND", append(at(abi, "Type", "Kind_"), at("runtime", "_type", "kind")...)},

		MapDirPtr:      {"MAP_DIRPTR", at(maps, "Map", "dirPtr")},
		MapDirLen:      {"MAP_DIRLEN", at(maps, "Map", "dirLen")},
		MapTableData:   {"MAP_TABLE_DATA", at(maps, "table", "groups.data")},
		MapTableMask:   {"MAP_TABLE_MASK", at(maps, "table", "groups.lengthMask")},
		HmapB:          {"HMAP_B", at("runtime", "hmap", "B")},
		HmapBuckets:    {"HMAP_BUCKETS", at("runtime", "hmap", "buckets")},
		HmapOldbuckets: {"HMAP_OLDBUCKETS", at("runtime", "hmap", "oldbuckets")},

		ChiPatterns: {"CHI_PATTERNS", append(at(chi, "Context", "RoutePatterns"), at(oldChi, "Context", "RoutePatterns")...)},
		ChiParent:   {"CHI_PARENT", append(at(chi, "Context", "parentCtx"), at(oldChi, "Context", "parentCtx")...)},
		GinRequest:  {"GIN_REQUEST", at(gin, "Context", "Request")},
		GinWriter:   {"GIN_WRITER", at(gin, "Context", "writermem.ResponseWriter")},
		GinFullPath: {"GIN_FULLPATH", at(gin, "Context", "fullPath")},
		MuxPath:     {"MUX_PATH", at(mux, "Route", "routeConf.regexp.path")},
		MuxTemplate: {"MUX_TEMPLATE", at(mux, "routeRegexp", "template")},

		HpackName:  {"HPACK_NAME", at(hpack, "HeaderField", "Name")},
		HpackValue: {"HPACK_VALUE", at(hpack, "HeaderField", "Value")},

		// A stream of the server's or the client's was a Stream, then had a pointer
		// to one (1.69), then has one inside (1.77); its fields are told from the
		// start of Stream in the first two cases.
		GRPCStreamID:            {"GRPC_STREAM_ID", stream("id")},
		GRPCStreamCtx:           {"GRPC_STREAM_CTX", stream("ctx")},
		GRPCStreamMethod:        {"GRPC_STREAM_METHOD", stream("method")},
		GRPCClientConn:          {"GRPC_CLIENT_CONN", at(transport, "http2Client", "conn")},
		GRPCServerConn:          {"GRPC_SERVER_CONN", at(transport, "http2Server", "conn")},
		GRPCCallHdrHost:         {"GRPC_CALLHDR_HOST", at(transport, "CallHdr", "Host")},
		GRPCCallHdrMethod:       {"GRPC_CALLHDR_METHOD", at(transport, "CallHdr", "Method")},
		GRPCHeaderFrameStreamID: {"GRPC_HEADERFRAME_STREAMID", headers("streamID")},
		GRPCHeaderFrameHf:       {"GRPC_HEADERFRAME_HF", headers("hf")},
		GRPCLoopyHBuf:           {"GRPC_LOOPY_HBUF", at(transport, "loopyWriter", "hBuf")},
		GRPCLoopyFramer:         {"GRPC_LOOPY_FRAMER", at(transport, "loopyWriter", "framer")},
		GRPCFramerFr:            {"GRPC_FRAMER_FR", at(transport, "framer", "fr")},
		GRPCStatusS:             {"GRPC_STATUS_S", at(status, "Status", "s")},
		GRPCStatusCode:          {"GRPC_STATUS_CODE", at(rpc, "Status", "Code")},
		GRPCServerStreamStream:  {"GRPC_SERVERSTREAM_STREAM", []Location{{transport, "ServerStream", "Stream", true}}},
		GRPCClientStreamStream:  {"GRPC_CLIENTSTREAM_STREAM", []Location{{transport, "ClientStream", "Stream", true}}},
		GRPCFrameArg:            {"GRPC_FRAME_ARG", nil},
		GRPCOriginateArg:        {"GRPC_ORIGINATE_ARG", nil},
		GRPCClientFramer:        {"GRPC_CLIENT_FRAMER", at(transport, "http2Client", "framer")},
		GRPCBufWriterBuf:        {"GRPC_BUFWRITER_BUF", at(transport, "bufWriter", "buf")},
		GRPCBufWriterOffset:     {"GRPC_BUFWRITER_OFFSET", at(transport, "bufWriter", "offset")},
		GRPCStreamState:         {"GRPC_STREAM_STATE", stream("state")},
		GRPCBufWriterHandle:     {"GRPC_BUFWRITER_HANDLE", []Location{{transport, "bufWriter", "bufHandle", true}}},
	} {
		l[f] = e
	}
	for f, e := range map[Field]struct{ name, typ, path string }{
		H2MetaHeadersFrame:   {"H2_METAHEADERS_FRAME", "MetaHeadersFrame", "HeadersFrame"},
		H2MetaHeadersFields:  {"H2_METAHEADERS_FIELDS", "MetaHeadersFrame", "Fields"},
		H2HeadersStreamID:    {"H2_HEADERS_STREAMID", "HeadersFrame", "FrameHeader.StreamID"},
		H2HeadersFlags:       {"H2_HEADERS_FLAGS", "HeadersFrame", "FrameHeader.Flags"},
		H2ServerConnConn:     {"H2_SERVERCONN_CONN", "serverConn", "conn"},
		H2ServerConnTLSState: {"H2_SERVERCONN_TLSSTATE", "serverConn", "tlsState"},
		H2StreamID:           {"H2_STREAM_ID", "stream", "id"},
		H2StreamSc:           {"H2_STREAM_SC", "stream", "sc"},
		H2ResponseWriterRws:  {"H2_RESPONSEWRITER_RWS", "responseWriter", "rws"},
		H2RwsStream:          {"H2_RWS_STREAM", "responseWriterState", "stream"},
		H2RwsStatus:          {"H2_RWS_STATUS", "responseWriterState", "status"},
		H2ClientStreamID:     {"H2_CLIENTSTREAM_ID", "clientStream", "ID"},
		H2ClientStreamCc:     {"H2_CLIENTSTREAM_CC", "clientStream", "cc"},
		H2ClientConnTconn:    {"H2_CLIENTCONN_TCONN", "ClientConn", "tconn"},
		H2ClientConnTLSState: {"H2_CLIENTCONN_TLSSTATE", "ClientConn", "tlsState"},
		H2ClientConnBw:       {"H2_CLIENTCONN_BW", "ClientConn", "bw"},
		H2FramerW:            {"H2_FRAMER_W", "Framer", "w"},
		H2FramerWbuf:         {"H2_FRAMER_WBUF", "Framer", "wbuf"},
		H2ClientConnStreams:  {"H2_CLIENTCONN_STREAMS", "ClientConn", "streams"},
	} {
		l[f] = entry{e.name, append(bundled(e.typ, e.path), at(http2, e.typ, e.path)...)}
		l[f.In(XNet)] = entry{e.name + "/xnet", at(xnet, e.typ, e.path)}
	}
	return l
}

// bundled is where cmd/bundle puts a declaration of HTTP/2: it gives the prefix to
// the types, and so to the names of embedded fields.
func bundled(typ, path string) []Location {
	switch path {
	case "HeadersFrame":
		path = "http2HeadersFrame"
	case "FrameHeader.StreamID":
		path = "http2FrameHeader.StreamID"
	case "FrameHeader.Flags":
		path = "http2FrameHeader.Flags"
	}
	return at(http, "http2"+typ, path)
}

// stream is a field of gRPC's Stream, which is part of others in newer versions.
func stream(path string) []Location {
	return []Location{{transport, "ServerStream", "Stream." + path, false}, {transport, "Stream", path, false}}
}

// headers is a field of what NewStream puts into the queue; named by side since
// grpc 1.82.1.
func headers(path string) []Location {
	return []Location{{transport, "clientHeaders", path, false}, {transport, "headerFrame", path, false}}
}
