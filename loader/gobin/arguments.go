package gobin

import (
	"golang.org/x/mod/semver"

	"weft/loader/gobin/field"
)

// What gives a gRPC stream its id, and which argument register holds the headers:
//
//	grpc to 1.52          headerHandler(hdr), of servers' headers too    1
//	1.53 to 1.82.0        originateStream(str, hdr)                      2
//	from 1.82.1           clientHeaderHandler(hdr)                       1
//
// Up to 1.52 there is an originateStream too, which takes the headers from a queue.
const (
	headerHandler       = pkgWire + ".(*loopyWriter).headerHandler"
	originateStream     = pkgWire + ".(*loopyWriter).originateStream"
	clientHeaderHandler = pkgWire + ".(*loopyWriter).clientHeaderHandler"

	originateTakesHeaders = "v1.53.0-0"
)

// originates chooses between them; a reason if it cannot.
func originates(functions map[string][]function, version string) (names []string, why string) {
	switch {
	case len(functions[clientHeaderHandler]) > 0:
		return []string{clientHeaderHandler}, ""
	case len(functions[originateStream]) == 0:
		return nil, ""
	case !semver.IsValid(version):
		return nil, "the arguments of " + originateStream + " are not known: no version of " + pkgGRPC
	case semver.Compare(version, originateTakesHeaders) < 0:
		return []string{headerHandler}, ""
	}
	return []string{originateStream}, ""
}

// ownBuffer says that by default each connection of this version of gRPC has a write
// buffer for good. From 1.80 on it gives it back after each flush.
func ownBuffer(version string) bool {
	return semver.IsValid(version) && semver.Compare(version, "v1.80.0-0") < 0
}

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
