// Package field lists what weft reads of Go programs: the enums of
// bpf/abi/golang.h by the same values, and for each field where it is declared.
package field

import "strconv"

// Flavour is one of the two copies of Go's HTTP/2, enum weft_go_flavour.
type Flavour uint8

// The flavours.
const (
	Bundled  Flavour = iota // net/http, type names with the prefix http2
	XNet                    // golang.org/x/net/http2
	Flavours                // how many there are
)

// Unknown is the offset of what is not known, WEFT_GO_UNKNOWN.
const Unknown = 0xffff

// Field is a field of a struct, enum weft_go_field.
type Field uint16

// The fields; bpf/abi/golang.h says which is which.
const (
	GGoid Field = iota
	GM
	GParentGoid
	MCurg
	MP
	PGoidcache
	PGoidcacheend
	RequestMethod
	RequestURL
	RequestHost
	RequestCtx
	RequestPattern
	URLScheme
	URLHost
	URLPath
	URLRawQuery
	ResponseConn
	ConnRwc
	ConnTLSState
	ConnBufr
	ReaderBuf
	ReaderR
	ReaderW
	WriterBuf
	WriterN
	WriterWr
	TransportRequestRequest
	PersistConnConn
	PersistConnTLSState
	PersistConnBr
	PersistConnBw
	TLSConn
	TCPConnFD
	NetFDSysfd
	ClientResponseStatus
	ClientResponseRequest
	RequestProtoMajor
	RequestHeader
	ContextKey
	ContextVal
	TypeSize
	TypeKind
	GSched
	GStktopsp
	GStartpc
	GGopc
	WriterErr
)

// The fields of HTTP/2 of the bundled flavour; Field.In has the other.
const (
	H2MetaHeadersFrame = H2First + iota
	H2MetaHeadersFields
	H2HeadersStreamID
	H2HeadersFlags
	H2ServerConnConn
	H2ServerConnTLSState
	H2StreamID
	H2StreamSc
	H2ResponseWriterRws
	H2RwsStream
	H2RwsStatus
	H2ClientStreamID
	H2ClientStreamCc
	H2ClientConnTconn
	H2ClientConnTLSState
	H2ClientConnBw
	H2FramerW
	H2FramerWbuf
	H2ClientConnStreams
)

// Where the fields of HTTP/2 begin, and how many values each flavour has.
const (
	H2First  Field = 48
	H2Fields Field = 24
)

// Those of golang.org/x/net/http2/hpack, the same in both flavours.
const (
	HpackName = H2First + Field(Flavours)*H2Fields + iota
	HpackValue
)

// Those of google.golang.org/grpc.
const (
	GRPCStreamID = GRPCFirst + iota
	GRPCStreamCtx
	GRPCStreamMethod
	GRPCClientConn
	GRPCServerConn
	GRPCCallHdrHost
	GRPCCallHdrMethod
	GRPCHeaderFrameStreamID
	GRPCHeaderFrameHf
	GRPCLoopyHBuf
	GRPCLoopyFramer
	GRPCFramerFr
	GRPCStatusS
	GRPCStatusCode
	GRPCServerStreamStream
	GRPCClientStreamStream
	GRPCFrameArg     // no offset but a register's index; it has no location
	GRPCOriginateArg // likewise
	GRPCClientFramer
	GRPCBufWriterBuf
	GRPCBufWriterOffset
	GRPCStreamState
	GRPCBufWriterHandle
)

// GRPCFirst is where the fields of gRPC begin.
const GRPCFirst Field = 104

// Those of maps: of internal/runtime/maps from Go 1.24 on, of the runtime before.
const (
	MapDirPtr = mapFirst + iota
	MapDirLen
	MapTableData
	MapTableMask
	HmapB
	HmapBuckets
	HmapOldbuckets
)

const mapFirst Field = 144

// Those of routers.
const (
	ChiPatterns = RouterFirst + iota
	ChiParent
	GinRequest
	GinWriter
	GinFullPath
	MuxPath
	MuxTemplate
)

// RouterFirst is where the fields of routers begin.
const RouterFirst Field = 152

// Count is the length of an array by field, WEFT_GO_FIELDS.
const Count = 160

// In is the field of HTTP/2 in another flavour; a field that has none stays.
func (f Field) In(flavour Flavour) Field {
	if f >= H2First && f < H2First+H2Fields {
		return f + Field(flavour)*H2Fields
	}
	return f
}

// Location is where a field is declared.
type Location struct {
	Package string // import path; a vendored copy has a prefix that ends in "vendor/"
	Struct  string
	// Path is the field, dotted through structs held by value, embedded ones by
	// their type's name: "conn.fd". No pointer is followed.
	Path string
	// Pointer says that the field counts only if it is a pointer: in some versions
	// it is, in others the struct itself lies there.
	Pointer bool
}

// Locations are the places to look, in this order: names differ by version. Empty
// for a value that is no field.
func (f Field) Locations() []Location {
	if f >= Count {
		return nil
	}
	return list[f].at
}

// String is the name in bpf/abi/golang.h without WEFT_GO_; that of the second
// flavour ends in "/xnet".
func (f Field) String() string {
	if f >= Count || list[f].name == "" {
		return "field " + strconv.Itoa(int(f))
	}
	return list[f].name
}

// All are the fields in order of value.
func All() []Field {
	var all []Field
	for f := range Field(Count) {
		if len(list[f].at) > 0 {
			all = append(all, f)
		}
	}
	return all
}
