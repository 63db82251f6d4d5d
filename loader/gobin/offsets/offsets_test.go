package offsets

import (
	"strings"
	"testing"

	"weft/loader/gobin/field"
)

// A made-up table, so that these tests stay true when the real one grows.
var goSpans = []span{
	{"go1.19", "go1.22.12", 152, true},
	{"go1.23.0", "go1.24.13", 160, true},
	{"go1.25.0", "go1.26.11", 152, true},
}

var movedByPatch = []span{
	{"go1.25.0", "go1.26.8", 360, true},
	{"go1.26.9", "go1.26.11", 352, true},
}

var sinceGo121 = []span{
	{"go1.19", "go1.20.14", 0, false},
	{"go1.21.0", "go1.26.11", 272, true},
}

var netSpans = []span{
	{"v0.0.0-20200822124328-c89045814202", "v0.0.0-20211015210444-4f30a5c0130f", 8, true},
	{"v0.0.0-20211020060615-d418f374d309", "v0.23.0", 16, true},
	{"v0.24.0", "v0.62.0", 24, true},
}

func TestFind(t *testing.T) {
	nothing := Result{}
	known := func(offset uint16) Result { return Result{offset, true, true} }
	guess := func(offset uint16) Result { return Result{offset, true, false} }
	for _, c := range []struct {
		what    string
		module  string
		spans   []span
		version string
		want    Result
	}{
		{"the first", Std, goSpans, "go1.19", known(152)},
		{"the same, written in full", Std, goSpans, "go1.19.0", known(152)},
		{"older than the table", Std, goSpans, "go1.18.10", nothing},
		{"a pre-release of the first", Std, goSpans, "go1.19rc2", nothing},
		{"inside", Std, goSpans, "go1.20.7", known(152)},
		{"the last of a span", Std, goSpans, "go1.22.12", known(152)},
		{"a newer patch before a border", Std, goSpans, "go1.22.13", known(152)},
		{"a pre-release at a border", Std, goSpans, "go1.23rc1", guess(152)},
		{"the first of a span", Std, goSpans, "go1.23.0", known(160)},
		{"another border", Std, goSpans, "go1.25.0", known(152)},
		{"the last", Std, goSpans, "go1.26.11", known(152)},
		{"a newer patch", Std, goSpans, "go1.26.99", known(152)},
		{"a newer minor", Std, goSpans, "go1.27.0", nothing},
		{"a newer minor's pre-release", Std, goSpans, "go1.27rc1", nothing},
		{"a newer minor, in the making", Std, goSpans, "devel go1.27-8d79b5 Tue", nothing},
		{"a known minor, in the making", Std, goSpans, "devel go1.24-8d79b5 Tue", guess(160)},
		{"an experiment", Std, goSpans, "go1.24.3 X:boringcrypto", guess(160)},
		{"somebody's own", Std, goSpans, "go1.24.3-acme", guess(160)},
		{"go2", Std, goSpans, "go2.0.0", nothing},
		{"no version", Std, goSpans, "", nothing},
		{"no build information", Std, goSpans, "go1.20 or newer", nothing},
		{"garbage", Std, goSpans, "\xffgo1.22", nothing},
		{"no spans", Std, nil, "go1.22.0", nothing},

		{"before a patch moved it", Std, movedByPatch, "go1.26.8", known(360)},
		{"after", Std, movedByPatch, "go1.26.9", known(352)},
		{"a newer patch, since patches move it", Std, movedByPatch, "go1.26.12", guess(352)},
		{"inside, patches or not", Std, movedByPatch, "go1.25.14", known(360)},

		{"known not to be there", Std, sinceGo121, "go1.20.14", Result{Exact: true}},
		{"there since", Std, sinceGo121, "go1.21.0", known(272)},

		{"a pseudo-version inside", "golang.org/x/net", netSpans, "v0.0.0-20210805182204-aaa1db679c0d", known(8)},
		{"a pseudo-version at a border", "golang.org/x/net", netSpans, "v0.0.0-20211016000000-000000000000", guess(8)},
		{"the first behind it", "golang.org/x/net", netSpans, "v0.0.0-20211020060615-d418f374d309", known(16)},
		{"the last pseudo-version", "golang.org/x/net", netSpans, "v0.0.0-20221014081412-f15817d10f9b", known(16)},
		{"a tag", "golang.org/x/net", netSpans, "v0.9.0", known(16)},
		{"in order of numbers, not of text", "golang.org/x/net", netSpans, "v0.10.0", known(16)},
		{"a pseudo-version at a border of tags", "golang.org/x/net", netSpans, "v0.23.1-0.20240401000000-000000000000", guess(16)},
		{"a patch at a border of tags", "golang.org/x/net", netSpans, "v0.23.1", known(16)},
		{"behind it", "golang.org/x/net", netSpans, "v0.24.0", known(24)},
		{"newest", "golang.org/x/net", netSpans, "v0.62.0", known(24)},
		{"newer", "golang.org/x/net", netSpans, "v0.63.0", nothing},
		{"a newer pseudo-version", "golang.org/x/net", netSpans, "v0.62.1-0.20261101000000-000000000000", guess(24)},
		{"older", "golang.org/x/net", netSpans, "v0.0.0-20190101000000-000000000000", nothing},
		{"of a fork", "golang.org/x/net", netSpans, "v0.40.0+dirty", guess(24)},
		{"of a working tree", "golang.org/x/net", netSpans, "(devel)", nothing},
	} {
		if got := find(schemeOf(c.module), c.spans, c.version); got != c.want {
			t.Errorf("%s: %q: got %+v, want %+v", c.what, c.version, got, c.want)
		}
	}
}

func TestModuleOf(t *testing.T) {
	modules := map[string]string{
		"google.golang.org/grpc":                     "v1.60.1",
		"google.golang.org/genproto":                 "v0.0.0-1",
		"google.golang.org/genproto/googleapis/rpc":  "v0.0.0-2",
		"google.golang.org/genproto/googleapis/rpcs": "v0.0.0-3",
	}
	for _, c := range []struct{ pkg, module, version, name string }{
		{"net/http", Std, "go1.22.0", "net/http"},
		{"runtime", Std, "go1.22.0", "runtime"},
		{"google.golang.org/grpc/internal/transport", "google.golang.org/grpc", "v1.60.1", "google.golang.org/grpc/internal/transport"},
		{"google.golang.org/genproto/googleapis/rpc/status", "google.golang.org/genproto/googleapis/rpc", "v0.0.0-2", "google.golang.org/genproto/googleapis/rpc/status"},
		{"google.golang.org/genproto/googleapis/api", "google.golang.org/genproto", "v0.0.0-1", "google.golang.org/genproto/googleapis/api"},
		{"golang.org/x/net/http2/hpack", Std, "go1.22.0", "vendor/golang.org/x/net/http2/hpack"},
		{"github.com/gin-gonic/gin", "", "", "github.com/gin-gonic/gin"},
	} {
		module, version, name := Versions{"go1.22.0", modules}.of(c.pkg)
		if module != c.module || version != c.version || name != c.name {
			t.Errorf("%s: got %q %q %q, want %q %q %q", c.pkg, module, version, name, c.module, c.version, c.name)
		}
	}
	modules["golang.org/x/net"] = "v0.20.0"
	if module, _, name := (Versions{"go1.22.0", modules}).of("golang.org/x/net/http2/hpack"); module != "golang.org/x/net" || name != "golang.org/x/net/http2/hpack" {
		t.Errorf("hpack of a program with x/net: got %q %q", module, name)
	}
}

func TestParseRefuses(t *testing.T) {
	for what, tsv := range map[string]string{
		"a column too few":    "std\truntime\tg\tgoid\tgo1.19\tgo1.20",
		"no offset":           "std\truntime\tg\tgoid\tgo1.19\tgo1.20\tx",
		"an offset too large": "std\truntime\tg\tgoid\tgo1.19\tgo1.20\t65535",
		"no version":          "std\truntime\tg\tgoid\tgo1.19\t1.20\t8",
		"another's version":   "golang.org/x/net\ta\tg\tgoid\tgo1.19\tgo1.20\t8",
		"ends swapped":        "std\truntime\tg\tgoid\tgo1.20\tgo1.19\t8",
		"overlapping spans":   "std\truntime\tg\tgoid\tgo1.19\tgo1.21.0\t8\nstd\truntime\tg\tgoid\tgo1.20\tgo1.22.0\t16",
	} {
		if _, err := parse(tsv); err == nil || !strings.HasPrefix(err.Error(), "line ") {
			t.Errorf("%s: got error %v, want one that names the line", what, err)
		}
	}
}

// TestTable: what is embedded can be read, and every field of the list is known in
// the oldest and in the newest version that it exists in.
func TestTable(t *testing.T) {
	if _, err := parse(tsv); err != nil {
		t.Fatal(err)
	}
	newest := Versions{Go: "go1.26.0", Modules: map[string]string{
		"golang.org/x/net":                          "v0.60.0",
		"google.golang.org/grpc":                    "v1.85.0",
		"google.golang.org/genproto/googleapis/rpc": "v0.0.0-20260928230214-8a89bd6388cc",
		"github.com/go-chi/chi/v5":                  "v5.5.0",
		"github.com/go-chi/chi":                     "v1.5.5",
		"github.com/gin-gonic/gin":                  "v1.12.0",
		"github.com/gorilla/mux":                    "v1.8.1",
	}}
	oldest := Versions{Go: "go1.19", Modules: map[string]string{
		"golang.org/x/net":           "v0.0.0-20200822124328-c89045814202",
		"google.golang.org/grpc":     "v1.40.0",
		"google.golang.org/genproto": "v0.0.0-20200806141610-86f49bd18e98",
		"github.com/go-chi/chi/v5":   "v5.0.0",
		"github.com/go-chi/chi":      "v1.5.1",
		"github.com/gin-gonic/gin":   "v1.7.0",
		"github.com/gorilla/mux":     "v1.7.0",
	}}
	since := map[field.Field]bool{ // not there in the oldest
		field.GParentGoid: true, field.RequestPattern: true, field.GRPCServerStreamStream: true, field.GRPCClientStreamStream: true,
		field.MapDirPtr: true, field.MapDirLen: true, field.MapTableData: true, field.MapTableMask: true,
		field.GRPCBufWriterHandle: true,
	}
	until := map[field.Field]bool{ // not there in the newest
		field.HmapB: true, field.HmapBuckets: true, field.HmapOldbuckets: true,
		field.GRPCServerStreamStream: true, field.GRPCClientStreamStream: true, field.GRPCBufWriterBuf: true,
	}
	for _, f := range field.All() {
		for name, c := range map[string]struct {
			in     Versions
			absent bool
		}{"newest": {newest, until[f]}, "oldest": {oldest, since[f]}} {
			present := false
			for _, at := range f.Locations() {
				r := Lookup(at, c.in)
				if !r.Exact {
					t.Errorf("%s at %+v in the %s: not known: make offsets", f, at, name)
				}
				present = present || r.Present
			}
			if present == c.absent {
				t.Errorf("%s in the %s: present is %v; if that is so, say it in this test", f, name, present)
			}
		}
	}
}

// TestTableSpans: every row names a field of the list, and neighbours differ.
func TestTableSpans(t *testing.T) {
	listed := map[field.Location]bool{}
	for _, f := range field.All() {
		for _, at := range f.Locations() {
			listed[at] = true
			at.Package = vendored + at.Package
			listed[at] = true
		}
	}
	for k, spans := range load() {
		if !listed[k.at] {
			t.Errorf("%+v is in the table, but not in the list of fields: make offsets", k)
		}
		for i := 1; i < len(spans); i++ {
			if spans[i].offset == spans[i-1].offset && spans[i].present == spans[i-1].present {
				t.Errorf("%+v: %+v and %+v are one", k, spans[i-1], spans[i])
			}
		}
	}
}
