package gobin

import (
	"slices"

	"weft/loader/gobin/field"
)

// A router tells routes at these sites, by these fields. Where `once` is there, it
// alone does.
type router struct {
	pkg    string
	once   Site
	sites  []Site
	fields []field.Field
}

func routers() []router {
	return []router{
		{pkgChi, SiteNone, []Site{SiteChiBegin, SiteChiEnd}, []field.Field{field.ChiPatterns, field.ChiParent}},
		{pkgGin, SiteGinRoute, []Site{SiteGinBegin, SiteGinEnd}, []field.Field{field.GinRequest, field.GinWriter, field.GinFullPath}},
		{pkgMux, SiteMuxRoute, nil, []field.Field{field.MuxPath, field.MuxTemplate}},
	}
}

// routers takes away the sites of those whose fields are not known for certain, for a
// guess could give requests the route of others, and those that are not needed.
func (b *Binary) routers(sources map[field.Field]Source) {
	for _, r := range routers() {
		unknown := slices.ContainsFunc(r.fields, func(f field.Field) bool {
			return b.Layout.Offset[f] == field.Unknown || sources[f] == SourceNearest
		})
		switch {
		case unknown:
			for _, f := range r.fields {
				b.Layout.Offset[f] = field.Unknown
			}
			b.leaveOut("the routes of "+r.pkg+" are not read: where they are in this version is not known", append(r.sites, r.once)...)
		case b.has(r.once):
			b.leaveOut("not needed: "+r.once.String()+" tells the same", r.sites...)
		case len(r.sites) > 0 && r.once != SiteNone:
			b.Absent = slices.DeleteFunc(b.Absent, func(a Absent) bool {
				return a.Site == r.once && b.has(r.sites[0])
			})
		}
	}
}

func (b *Binary) has(s Site) bool {
	return slices.ContainsFunc(b.Probes, func(p Probe) bool { return p.Site == s })
}

func (b *Binary) leaveOut(why string, sites ...Site) {
	for _, s := range sites {
		if !b.has(s) {
			continue
		}
		b.Probes = slices.DeleteFunc(b.Probes, func(p Probe) bool { return p.Site == s })
		b.Layout.Guarded &^= 1 << s
		b.Absent = append(b.Absent, Absent{s, why})
	}
}
