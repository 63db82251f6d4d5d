package gobin

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/loader/gobin/field"
)

// routerApp is a server with all of the routers.
const routerApp = "../../../test/apps/gorouters"

func isRouters(s Site) bool { return s >= SiteChiBegin && s <= SiteMuxRoute }

func routerSites(b *Binary) []Site {
	var all []Site
	for _, p := range b.Probes {
		if isRouters(p.Site) {
			all = append(all, p.Site)
		}
	}
	return all
}

// TestRouters: each router has the sites that its version and its Go leave, on
// instructions that the kernel emulates, and its fields are known, stripped or not.
func TestRouters(t *testing.T) {
	apart := []Site{SiteChiBegin, SiteChiEnd, SiteGinBegin, SiteGinEnd, SiteMuxRoute}
	once := []Site{SiteChiBegin, SiteChiEnd, SiteGinRoute, SiteMuxRoute}
	for _, c := range []struct {
		name  string
		env   []string
		flags []string
		want  []Site
	}{
		{"newest", nil, []string{"-modfile=newest.mod"}, once},
		{"newest on arm64", []string{"GOARCH=arm64"}, []string{"-modfile=newest.mod"}, once},
		{"oldest", toolchain(oldest), nil, apart},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := build(t, routerApp, c.env, c.flags...)
			for _, path := range []string{path, strip(t, path, true)} {
				b := analysed(t, path)
				if got := routerSites(b); !slices.Equal(got, c.want) {
					t.Errorf("sites %v, want %v; absent %v", got, c.want, b.Absent)
				}
				for _, p := range b.Probes {
					if isRouters(p.Site) && !p.Emulated {
						t.Errorf("%v: %s is not emulated", p.Site, p.Instruction)
					}
				}
				for f := field.ChiPatterns; f <= field.MuxTemplate; f++ {
					if b.Layout.Offset[f] == field.Unknown {
						t.Errorf("%v is not known", f)
					}
				}
			}
		})
	}
}

// TestRoutersUnknown: of a router's version that the table does not know, the file
// itself tells; else there is no probe for it, and no guess.
func TestRoutersUnknown(t *testing.T) {
	path := build(t, routerApp, nil, "-modfile=newest.mod")
	changed := func(from string) string {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		data = bytes.ReplaceAll(data, []byte("gin-gonic/gin\tv1.12.0"), []byte("gin-gonic/gin\tv1.99.0"))
		to := filepath.Join(t.TempDir(), "changed")
		if err := os.WriteFile(to, data, 0o700); err != nil {
			t.Fatal(err)
		}
		return to
	}
	told := analysed(t, changed(path))
	if got := told.Layout.Offset[field.GinFullPath]; got != analysed(t, path).Layout.Offset[field.GinFullPath] || !told.has(SiteGinRoute) {
		t.Errorf("of a version that only the file knows: offset %d, absent %v", got, told.Absent)
	}
	b := analysed(t, changed(strip(t, path, true)))
	if got, want := routerSites(b), []Site{SiteChiBegin, SiteChiEnd, SiteMuxRoute}; !slices.Equal(got, want) {
		t.Errorf("sites %v, want %v", got, want)
	}
	i := slices.IndexFunc(b.Absent, func(a Absent) bool { return a.Site == SiteGinRoute })
	if i < 0 || !strings.Contains(b.Absent[i].Why, "not known") || b.Layout.Offset[field.GinFullPath] != field.Unknown {
		t.Errorf("absent %v, offset %d", b.Absent, b.Layout.Offset[field.GinFullPath])
	}
}
