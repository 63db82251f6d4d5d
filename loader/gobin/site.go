package gobin

import "weft/loader/gobin/field"

// Site is a place that is attached, enum weft_go_site.
type Site uint8

// The sites; bpf/abi/golang.h says which is which.
const (
	SiteNone Site = iota
	SiteServe
	SiteRoundTrip
	SiteWrite
	SiteTLSWrite
	SiteTLSResponse
	SiteTLSIdle
	SiteTLSClose
)

// The sites of HTTP/2 in the bundled flavour; Site.In has the other.
const (
	SiteH2ServerHeaders = siteH2First + iota
	SiteH2Handler
	SiteH2ServerEnd
	SiteH2Request
	SiteH2Write
	SiteH2Response
	SiteH2ClientEnd
	SiteH2ServerReset
)

const (
	siteH2First Site = 8
	siteH2Count Site = 8
)

// The sites of gRPC.
const (
	SiteGRPCServerHeaders = siteGRPCFirst + iota
	SiteGRPCHandler
	SiteGRPCStatus
	SiteGRPCServerEnd
	SiteGRPCNewStream
	SiteGRPCQueued
	SiteGRPCWrite
	SiteGRPCClientEnd
)

const siteGRPCFirst Site = 24

// The sites that found no room among the others. Of SiteH2RoundTrip, too, Site.In has
// the other flavour.
const (
	SiteH2RoundTrip       Site = 32
	SiteGRPCOriginate     Site = 34
	SiteGRPCHandlerStatus Site = 35
	SiteGRPCWrote         Site = 37
)

// The sites of routers.
const (
	SiteChiBegin Site = 40 + iota
	SiteChiEnd
	SiteGinBegin
	SiteGinEnd
	SiteGinRoute
	SiteMuxRoute
)

// Sites is the length of an array by site, WEFT_GO_SITES.
const Sites = 48

// In is the site of HTTP/2 in another flavour; a site that has none stays.
func (s Site) In(flavour field.Flavour) Site {
	if s >= siteH2First && s < siteH2First+siteH2Count {
		return s + Site(flavour)*siteH2Count
	}
	if s == SiteH2RoundTrip {
		return s + Site(flavour)
	}
	return s
}
