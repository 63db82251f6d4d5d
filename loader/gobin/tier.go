package gobin

import (
	"errors"
	"slices"

	"weft/loader/gobin/field"
)

// A tier is what is told by several sites together: without one of them the others
// would begin what never ends, or end what never began.
type tier struct {
	what     string
	sites    []Site
	optional []Site // of no use without the others, which do without
}

func tiers() []tier {
	all := []tier{
		{"of calls for a request of HTTP/1 only those in the handler itself are known, and servers over TLS are not seen", []Site{SiteServe}, nil},
		{"calls by HTTP/1 are traced by their sockets alone", []Site{SiteRoundTrip}, nil},
		{"calls by HTTP/1 over TLS are not seen, and nothing is written into memory for HTTP/1",
			[]Site{SiteWrite, SiteTLSResponse, SiteTLSIdle, SiteTLSClose}, nil},
		{"servers of HTTP/1 over TLS are not seen", []Site{SiteTLSWrite}, nil},
	}
	for _, flavour := range []field.Flavour{field.Bundled, field.XNet} {
		in := func(sites ...Site) []Site {
			for n := range sites {
				sites[n] = sites[n].In(flavour)
			}
			return sites
		}
		pkg := pkgHTTP
		if flavour == field.XNet {
			pkg = pkgXNet
		}
		all = append(all,
			tier{"servers of HTTP/2 by " + pkg + " are not seen", in(SiteH2ServerHeaders, SiteH2Handler, SiteH2ServerEnd), in(SiteH2ServerReset)},
			tier{"calls by HTTP/2 of " + pkg + " are not seen", in(SiteH2RoundTrip, SiteH2Request, SiteH2Response, SiteH2ClientEnd), in(SiteH2Write)})
	}
	return append(all,
		tier{"servers of gRPC are not seen", []Site{SiteGRPCHandler, SiteGRPCStatus, SiteGRPCServerEnd}, []Site{SiteGRPCHandlerStatus}},
		tier{"calls by gRPC are not seen", []Site{SiteGRPCNewStream, SiteGRPCQueued, SiteGRPCOriginate, SiteGRPCClientEnd}, []Site{SiteGRPCWrite, SiteGRPCWrote}},
		tier{"routes of chi are not read", []Site{SiteChiBegin, SiteChiEnd}, nil},
		tier{"routes of gin are not read", []Site{SiteGinBegin, SiteGinEnd}, nil},
		tier{"routes of gorilla/mux are not read", []Site{SiteMuxRoute}, nil},
	)
}

// degrade leaves out what is left of tiers that miss a site, and says on one line what
// a program loses by a function that is inlined, or is not as weft knows it. What is
// not linked is no loss.
func (b *Binary) degrade(missing map[Site]error) {
	for _, t := range tiers() {
		lacks := SiteNone
		for _, s := range t.sites {
			if !b.has(s) && (lacks == SiteNone || isAbsent(missing[lacks]) || isInlined(missing[s])) {
				lacks = s
			}
		}
		if lacks == SiteNone || t.sites[0] == SiteGinBegin && b.has(SiteGinRoute) {
			continue
		}
		if why := missing[lacks]; why != nil && !isAbsent(why) {
			b.Degraded = append(b.Degraded, t.what+": "+why.Error())
		}
		b.leaveOut("not without "+lacks.String(), slices.Concat(t.sites, t.optional)...)
		if lacks == SiteTLSWrite {
			b.Layout.Offset[field.ConnTLSState] = field.Unknown // as if none were over TLS
		}
	}
	if !b.has(SiteServe) {
		b.leaveOut("not without "+SiteServe.String(), SiteTLSWrite)
	}
}

// onlyAtSites leaves writing to the sockets where the site that would do it is not there.
func (b *Binary) onlyAtSites() {
	for _, w := range []struct {
		flag uint32
		site Site
	}{
		{FlagWrites, SiteWrite}, {FlagWritesH2, SiteH2Write}, {FlagWritesXNet, SiteH2Write.In(field.XNet)},
		{FlagWritesGRPC, SiteGRPCWrite}, {FlagWrote, SiteGRPCWrote},
	} {
		if !b.has(w.site) {
			b.Layout.Flags &^= w.flag
		}
	}
}

// absentError says that a function is not there at all.
type absentError struct{ function string }

func (e *absentError) Error() string {
	return e.function + " is not in the program: not linked, or inlined everywhere"
}

func isAbsent(err error) bool {
	var e *absentError
	return errors.As(err, &e)
}
