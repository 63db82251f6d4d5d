package gobin

import "weft/loader/gobin/field"

// originate are the functions that give a gRPC stream its id; the index of the
// argument register that holds the headers differs:
//
//	grpc to 1.80    originateStream(str, hdr)    2
//	newer           clientHeaderHandler(hdr)     1
const (
	originateStream     = pkgWire + ".(*loopyWriter).originateStream"
	clientHeaderHandler = pkgWire + ".(*loopyWriter).clientHeaderHandler"
)

// arguments tells in which register an argument is, where that differs by version.
func (b *Binary) arguments() {
	for _, p := range b.Probes {
		if p.Site != SiteGRPCOriginate {
			continue
		}
		b.Layout.Offset[field.GRPCOriginateArg] = 1
		if string(canonical([]byte(p.Function))) == originateStream {
			b.Layout.Offset[field.GRPCOriginateArg] = 2
		}
	}
}
