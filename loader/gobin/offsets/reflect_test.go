package offsets

import (
	"bufio"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"weft/loader/gobin/field"
)

// offsetOf finds a dotted path by reflection, the compiler's own word for it.
func offsetOf(t reflect.Type, path string) (uintptr, bool) {
	var offset uintptr
	for name := range strings.SplitSeq(path, ".") {
		f, ok := t.FieldByName(name)
		if !ok || len(f.Index) != 1 {
			return 0, false
		}
		offset += f.Offset
		t = f.Type
	}
	return offset, true
}

// TestTableOfThisProgram: the table agrees with what this program was built with, as
// far as reflection reaches.
func TestTableOfThisProgram(t *testing.T) {
	// A test's build information names no modules.
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Version}}", "golang.org/x/net").Output()
	if err != nil {
		t.Fatalf("which golang.org/x/net this is built with: %v", err)
	}
	xnet := strings.TrimSpace(string(out))
	in := Versions{Go: runtime.Version(), Modules: map[string]string{"golang.org/x/net": xnet}}
	pointee := func(v any, path ...string) reflect.Type {
		typ := reflect.TypeOf(v)
		for _, name := range path {
			f, ok := typ.FieldByName(name)
			if !ok {
				t.Fatalf("%s has no field %s", typ, name)
			}
			typ = f.Type.Elem()
		}
		return typ
	}
	types := map[string]reflect.Type{}
	for _, typ := range []reflect.Type{
		pointee(http.Request{}), pointee(http.Response{}), pointee(url.URL{}), pointee(bufio.Reader{}), pointee(bufio.Writer{}),
		pointee(tls.Conn{}), pointee(net.TCPConn{}), pointee(http2.Framer{}), pointee(hpack.HeaderField{}),
		pointee(http2.ClientConn{}), //nolint:staticcheck // its fields, not its use

		pointee(http2.MetaHeadersFrame{}), pointee(http2.HeadersFrame{}),
	} {
		types[typ.PkgPath()+"."+typ.Name()] = typ
	}
	conn, _ := reflect.TypeOf(net.TCPConn{}).FieldByName("conn")
	types["net.netFD"] = pointee(reflect.Zero(conn.Type).Interface(), "fd")

	checked := 0
	for _, f := range field.All() {
		for _, at := range f.Locations() {
			typ, ok := types[at.Package+"."+at.Struct]
			if !ok {
				continue
			}
			got := Lookup(at, in)
			if !got.Exact {
				// A Go or a golang.org/x/net newer than the table.
				t.Logf("%s: not known in %s with golang.org/x/net %s", f, in.Go, xnet)
				continue
			}
			want, present := offsetOf(typ, at.Path)
			if got.Present != present || present && uintptr(got.Offset) != want {
				t.Errorf("%s: the table has %+v, this program %d, %v", f, got, want, present)
			}
			checked++
		}
	}
	if known := find(schemeOf(Std), []span{{"go1.19", "go1.26.0", 0, true}}, in.Go).Exact; known && checked < 20 {
		t.Errorf("%d fields compared in %s, want 20 at least", checked, in.Go)
	}
}
