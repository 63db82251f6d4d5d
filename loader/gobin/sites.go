package gobin

import (
	"fmt"
	"slices"
	"strings"

	"weft/loader/gobin/field"
)

// target is what a site is in a program: a function by its names in the versions
// supported, and the call in it if the place is not its entry.
type target struct {
	site      Site
	name      string   // of the site in bpf/abi/golang.h
	functions []string // the first that is there
	calls     []string // what is called, by the same names; empty: the entry; of GRPC_WROTE what has returned
	pkg       string   // absent packages need no word about each function
}

const (
	pkgHTTP = "net/http"
	pkgTLS  = "crypto/tls"
	pkgH2   = "net/http/internal/http2"
	pkgXNet = "golang.org/x/net/http2"
	pkgGRPC = "google.golang.org/grpc"
	modXNet = "golang.org/x/net"
	pkgWire = "google.golang.org/grpc/internal/transport"
	pkgChi  = "github.com/go-chi/chi"
	pkgGin  = "github.com/gin-gonic/gin"
	pkgMux  = "github.com/gorilla/mux"
)

// targets are all sites, in order.
func targets() []target {
	all := []target{
		{SiteServe, "SERVE", []string{pkgHTTP + ".serverHandler.ServeHTTP"}, nil, pkgHTTP},
		{SiteRoundTrip, "ROUNDTRIP", []string{pkgHTTP + ".(*persistConn).roundTrip"}, nil, pkgHTTP},
		{SiteWrite, "WRITE", []string{pkgHTTP + ".(*Request).write"}, []string{"io.WriteString"}, pkgHTTP},
		{SiteTLSWrite, "TLS_WRITE", []string{pkgTLS + ".(*Conn).Write"}, nil, pkgTLS},
		{SiteTLSResponse, "TLS_RESPONSE", []string{pkgHTTP + ".ReadResponse"}, []string{pkgHTTP + ".readTransfer"}, pkgHTTP},
		{SiteTLSIdle, "TLS_IDLE", []string{pkgHTTP + ".(*Transport).tryPutIdleConn"}, nil, pkgHTTP},
		{SiteTLSClose, "TLS_CLOSE", []string{pkgHTTP + ".(*persistConn).closeLocked"}, nil, pkgHTTP},
	}
	for _, flavour := range []field.Flavour{field.Bundled, field.XNet} {
		for _, t := range []struct {
			site                 Site
			name, receiver, does string
			calls                string
		}{
			{SiteH2ServerHeaders, "H2_SERVER_HEADERS", "serverConn", "newWriterAndRequest", ""},
			{SiteH2Handler, "H2_HANDLER", "serverConn", "runHandler", ""},
			{SiteH2ServerEnd, "H2_SERVER_END", "serverConn", "closeStream", ""},
			{SiteH2Request, "H2_REQUEST", "clientStream", "encodeAndWriteHeaders", ""},
			{SiteH2Write, "H2_WRITE", "ClientConn", "writeHeaders", "Framer"},
			{SiteH2Response, "H2_RESPONSE", "clientConnReadLoop", "handleResponse", ""},
			{SiteH2ClientEnd, "H2_CLIENT_END", "clientStream", "cleanupWriteRequest", ""},
			{SiteH2ServerReset, "H2_SERVER_RESET", "serverConn", "resetStream", ""},
			{SiteH2RoundTrip, "H2_ROUNDTRIP", "ClientConn", "roundTrip", ""},
			{SiteH2RoundTrip, "H2_ROUNDTRIP", "ClientConn", "RoundTrip", ""},
		} {
			add := target{site: t.site.In(flavour), name: t.name, pkg: pkgHTTP}
			prefixes := []string{pkgHTTP + ".(*http2", pkgH2 + ".(*"}
			if flavour == field.XNet {
				prefixes, add.pkg = []string{pkgXNet + ".(*"}, pkgXNet
				add.name += "/xnet"
			}
			for _, p := range prefixes {
				add.functions = append(add.functions, p+t.receiver+")."+t.does)
				if t.calls != "" {
					add.calls = append(add.calls, p+t.calls+").WriteHeaders")
				}
			}
			if last := &all[len(all)-1]; last.site == add.site { // another name of the same
				last.functions = append(last.functions, add.functions...)
				continue
			}
			all = append(all, add)
		}
	}
	server, client, loopy := pkgWire+".(*http2Server).", pkgWire+".(*http2Client).", pkgWire+".(*loopyWriter)."
	handler := pkgWire + ".(*serverHandlerTransport)."
	chiServe := []string{pkgChi + "/v5.(*Mux).ServeHTTP", pkgChi + ".(*Mux).ServeHTTP"}
	return append(all,
		target{SiteGRPCHandler, "GRPC_HANDLER", []string{pkgGRPC + ".(*Server).handleStream"}, nil, pkgGRPC},
		target{SiteGRPCStatus, "GRPC_STATUS", []string{server + "WriteStatus", server + "writeStatus"}, nil, pkgGRPC},
		target{SiteGRPCServerEnd, "GRPC_SERVER_END", []string{server + "closeStream"}, nil, pkgGRPC},
		target{SiteGRPCNewStream, "GRPC_NEWSTREAM", []string{client + "NewStream"}, nil, pkgGRPC},
		target{SiteGRPCQueued, "GRPC_QUEUED", []string{client + "NewStream"}, []string{pkgWire + ".(*controlBuffer).executeAndPut"}, pkgGRPC},
		target{SiteGRPCWrite, "GRPC_WRITE", []string{loopy + "writeHeader"}, []string{pkgXNet + ".(*Framer).WriteHeaders", pkgH2 + ".(*Framer).WriteHeaders"}, pkgGRPC},
		target{SiteGRPCClientEnd, "GRPC_CLIENT_END", []string{client + "closeStream"}, nil, pkgGRPC},
		target{SiteGRPCOriginate, "GRPC_ORIGINATE", []string{clientHeaderHandler, originateStream, headerHandler}, nil, pkgGRPC},
		target{SiteGRPCHandlerStatus, "GRPC_HANDLER_STATUS", []string{handler + "writeStatus", handler + "WriteStatus"}, nil, pkgGRPC},
		target{SiteGRPCWrote, "GRPC_WROTE", []string{clientHeaderHandler, originateStream}, []string{loopy + "writeHeader"}, pkgGRPC},
		target{SiteChiBegin, "CHI_BEGIN", chiServe, []string{"context.WithValue"}, pkgChi},
		target{SiteChiEnd, "CHI_END", chiServe, []string{"sync.(*Pool).Put"}, pkgChi},
		target{SiteGinBegin, "GIN_BEGIN", []string{pkgGin + ".(*Engine).handleHTTPRequest"}, nil, pkgGin},
		target{SiteGinEnd, "GIN_END", []string{pkgGin + ".(*Engine).ServeHTTP"}, []string{"sync.(*Pool).Put"}, pkgGin},
		target{SiteGinRoute, "GIN_ROUTE", []string{pkgGin + ".(*Engine).handleHTTPRequest"}, []string{pkgGin + ".(*Context).Next"}, pkgGin},
		target{SiteMuxRoute, "MUX_ROUTE", []string{pkgMux + ".requestWithRoute"}, nil, pkgMux},
	)
}

// String is the name in bpf/abi/golang.h without WEFT_GO_SITE_; that of the second
// flavour ends in "/xnet".
func (s Site) String() string {
	for _, t := range targets() {
		if t.site == s {
			return t.name
		}
	}
	return fmt.Sprintf("site %d", uint8(s))
}

// Function is what the site is in, as this source names it first, and what is called
// there: "" if it is the entry.
func (s Site) Function() (in, call string) {
	for _, t := range targets() {
		if t.site != s {
			continue
		}
		if len(t.calls) > 0 {
			call = t.calls[0]
		}
		return t.functions[0], call
	}
	return "", ""
}

// packageOf is the import path in the name of a function, without a vendor folder.
func packageOf(name string) string {
	slash := strings.LastIndexByte(name, '/')
	if dot := strings.IndexByte(name[slash+1:], '.'); dot >= 0 {
		return name[:slash+1+dot]
	}
	return name
}

// choose finds the probes of a site, or says why there are none.
func (i *image) choose(t target) ([]Probe, bool, error) {
	var found []function
	for _, name := range t.functions {
		if found = i.functions[name]; len(found) > 0 {
			if into := i.inlines[name]; len(into) > 0 {
				return nil, false, &inlinedError{name, into}
			}
			break
		}
	}
	if len(found) == 0 {
		for _, name := range t.functions {
			if into := i.inlines[name]; len(into) > 0 {
				return nil, false, &inlinedError{name, into}
			}
		}
		return nil, false, &absentError{t.functions[0]}
	}
	callees := map[uint64]bool{}
	for _, name := range t.calls {
		if slices.ContainsFunc(i.inlines[name], func(into string) bool { return into == found[0].name }) {
			return nil, false, &inlinedError{name, []string{found[0].name}}
		}
		for _, f := range i.functions[name] {
			callees[f.address] = true
		}
	}
	var probes []Probe
	guarded := false
	for _, f := range found {
		code, err := i.code(f)
		if err != nil {
			return nil, false, fmt.Errorf("%s: %w", f.name, err)
		}
		var places []place
		if len(t.calls) == 0 {
			p, err := entry(i.arch, code, f.address)
			if err != nil {
				return nil, false, fmt.Errorf("%s: %w", f.name, err)
			}
			places = []place{p}
		} else if places, err = calls(i.arch, code, f.address, callees); err != nil {
			return nil, false, fmt.Errorf("%s: %w", f.name, err)
		}
		for n := range places {
			if t.site != SiteGRPCWrote {
				continue
			}
			if places[n], err = behind(i.arch, code, f.address, places[n]); err != nil {
				return nil, false, fmt.Errorf("%s: %w", f.name, err)
			}
		}
		for _, p := range places {
			address := f.address + uint64(p.at)
			off, ok := i.offset(address, true)
			if !ok {
				return nil, false, fmt.Errorf("%s: its code is not in the file", f.name)
			}
			guarded = guarded || p.guarded
			probes = append(probes, Probe{t.site, f.name, address, off, p.text, p.emulated, p.guarded})
		}
	}
	if len(probes) == 0 {
		return nil, false, fmt.Errorf("%s does not call %s: inlined there, or another version", found[0].name, t.calls[0])
	}
	return probes, guarded, nil
}
