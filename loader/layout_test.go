package loader

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"weft/internal/event"
)

// objects are the BTF of the embedded object and of the committed objects of
// both architectures: the layouts must not differ between them.
func objects(t *testing.T) map[string]*btf.Spec {
	t.Helper()
	specs := map[string]*btf.Spec{}
	embedded, err := LoadWeft()
	if err != nil {
		t.Fatal(err)
	}
	specs["embedded"] = embedded.Types
	files, err := filepath.Glob("weft_*_bpfel.o")
	if err != nil || len(files) != 2 {
		t.Fatalf("objects %v, error %v: want those of x86 and arm64; run `make generate`", files, err)
	}
	for _, file := range files {
		spec, err := ebpf.LoadCollectionSpec(file)
		if err != nil {
			t.Fatal(err)
		}
		specs[file] = spec.Types
	}
	return specs
}

// TestMirrorLayouts compares the generated Go mirrors of what user space reads
// and writes with the object's own BTF: a mirror made from another version of
// the object would read the right bytes from the wrong place.
func TestMirrorLayouts(t *testing.T) {
	mirrors := map[string]any{
		"weft_event_head":    WeftWeftEventHead{},
		"weft_request":       WeftWeftRequest{},
		"weft_brief":         WeftWeftBrief{},
		"weft_carried":       WeftWeftCarried{},
		"weft_route":         WeftWeftRoute{},
		"weft_response":      WeftWeftResponse{},
		"weft_process":       WeftWeftProcess{},
		"weft_socket":        WeftWeftSocket{},
		"weft_target":        WeftWeftTarget{},
		"weft_control":       WeftWeftControl{},
		"weft_network":       WeftWeftNetwork{},
		"weft_keys":          WeftWeftKeys{},
		"weft_egress":        WeftWeftEgress{},
		"weft_sampling_rule": WeftWeftSamplingRule{},
		"weft_edge":          WeftWeftEdge{},
	}
	for object, spec := range objects(t) {
		for name, mirror := range mirrors {
			t.Run(object+"/"+name, func(t *testing.T) {
				var c *btf.Struct
				if err := spec.TypeByName(name, &c); err != nil {
					t.Fatalf("%v: refer to it in bpf/weft.bpf.c", err)
				}
				compareType(t, name, c, reflect.TypeOf(mirror))
			})
		}
	}
}

// TestMirrorComparisonCanFail moves a field of a mirror and wants it noticed.
func TestMirrorComparisonCanFail(t *testing.T) {
	var c *btf.Struct
	if err := objects(t)["embedded"].TypeByName("weft_event_head", &c); err != nil {
		t.Fatal(err)
	}
	for name, mirror := range map[string]any{
		"order": struct {
			Version, Type uint16
			Length        uint32
			KtimeNs       uint64
		}{},
		"width": struct {
			Type, Version uint16
			Length        uint64
			KtimeNs       uint64
		}{},
		"missing": struct {
			Type, Version uint16
			Length        uint32
		}{},
		"flexible": struct {
			Type, Version uint16
			Length        uint32
			KtimeNs       uint64
			Text          [0]uint8
		}{},
	} {
		var noticed failures
		compareType(&noticed, name, c, reflect.TypeOf(mirror))
		if len(noticed) == 0 {
			t.Errorf("%s: a mirror that differs passed", name)
		}
	}
}

// complainer is what a comparison reports to.
type complainer interface {
	Errorf(format string, args ...any)
}

type failures []string

func (f *failures) Errorf(format string, _ ...any) { *f = append(*f, format) }

// compareType reports every difference in size, offset and field name between
// a C type and its Go mirror.
func compareType(t complainer, path string, c btf.Type, mirror reflect.Type) {
	c = btf.UnderlyingType(c)
	size, err := btf.Sizeof(c)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	if uintptr(size) != mirrorSize(mirror) {
		t.Errorf("%s: %d bytes in C, %d in Go", path, size, mirrorSize(mirror))
	}
	switch c := c.(type) {
	case *btf.Struct:
		compareFields(t, path, c, mirror)
	case *btf.Array:
		if mirror.Kind() != reflect.Array || mirror.Len() != int(c.Nelems) {
			t.Errorf("%s: %d elements in C, %s in Go", path, c.Nelems, mirror)
			return
		}
		compareType(t, path+"[]", c.Type, mirror.Elem())
	case *btf.Int:
		signed := c.Encoding == btf.Signed
		unsignedGo := mirror.Kind() >= reflect.Uint && mirror.Kind() <= reflect.Uint64
		if signed == unsignedGo {
			t.Errorf("%s: %s in C, %s in Go", path, c.Name, mirror)
		}
	}
}

// mirrorSize is what the fields take: behind an empty array at the end, which is
// C's flexible one, Go puts padding.
func mirrorSize(mirror reflect.Type) uintptr {
	if mirror.Kind() == reflect.Struct && mirror.NumField() > 0 {
		if last := mirror.Field(mirror.NumField() - 1); last.Type.Size() == 0 {
			return last.Offset
		}
	}
	return mirror.Size()
}

func compareFields(t complainer, path string, c *btf.Struct, mirror reflect.Type) {
	if mirror.Kind() != reflect.Struct {
		t.Errorf("%s: a struct in C, %s in Go", path, mirror)
		return
	}
	var fields []reflect.StructField // without HostLayout and padding
	for i := range mirror.NumField() {
		if f := mirror.Field(i); f.Name != "_" {
			fields = append(fields, f)
		}
	}
	if len(fields) != len(c.Members) {
		t.Errorf("%s: %d fields in C, %d in Go", path, len(c.Members), len(fields))
		return
	}
	for i, m := range c.Members {
		f := fields[i]
		where := path + "." + m.Name
		if f.Name != camelCase(m.Name) {
			t.Errorf("%s: called %s in Go", where, f.Name)
		}
		if m.BitfieldSize != 0 {
			t.Errorf("%s: a bit field, which Go cannot mirror", where)
		}
		if uintptr(m.Offset.Bytes()) != f.Offset {
			t.Errorf("%s: at byte %d in C, %d in Go", where, m.Offset.Bytes(), f.Offset)
		}
		compareType(t, where, m.Type, f.Type)
	}
}

// camelCase names a C field as bpf2go does.
func camelCase(c string) string {
	var b strings.Builder
	for word := range strings.SplitSeq(c, "_") {
		if word != "" {
			b.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return b.String()
}

// TestEnumsMatch holds the Go constants to the C enumerations: each value of an
// enumeration has the same name in Go, and Go has no more of them.
func TestEnumsMatch(t *testing.T) {
	processOps := map[ProcessOp]string{
		ProcessExec: "exec", ProcessExit: "exit", ProcessListen: "listen", ProcessFork: "fork",
	}
	enums := map[string]struct {
		prefix string
		goName func(uint8) string
	}{
		"weft_role":        {"WEFT_ROLE_", func(v uint8) string { return event.Role(v).String() }},
		"weft_parent_rule": {"WEFT_PARENT_", func(v uint8) string { return event.ParentRule(v).String() }},
		"weft_propagation": {"WEFT_PROPAGATION_", func(v uint8) string { return event.Propagation(v).String() }},
		"weft_end":         {"WEFT_END_", func(v uint8) string { return event.End(v).String() }},
		"weft_process_op":  {"WEFT_PROCESS_", func(v uint8) string { return processOps[ProcessOp(v)] }},
	}
	for object, spec := range objects(t) {
		for name, want := range enums {
			t.Run(object+"/"+name, func(t *testing.T) {
				var c *btf.Enum
				if err := spec.TypeByName(name, &c); err != nil {
					t.Fatalf("%v: refer to it in bpf/weft.bpf.c", err)
				}
				inC := map[uint64]bool{}
				for _, v := range c.Values {
					inC[v.Value] = true
					name := strings.ToLower(strings.TrimPrefix(v.Name, want.prefix))
					if got := want.goName(uint8(v.Value)); got != name {
						t.Errorf("%s = %d is %q in Go, want %q", v.Name, v.Value, got, name)
					}
				}
				for v := range 256 {
					if got := want.goName(uint8(v)); !inC[uint64(v)] && got != "" && got != "unknown" {
						t.Errorf("%d is %q in Go and nothing in C", v, got)
					}
				}
			})
		}
	}
}

// TestProtocolBitsMatch holds the bits of event.Protocol to enum weft_http.
func TestProtocolBitsMatch(t *testing.T) {
	bits := map[string]event.Protocol{
		"WEFT_HTTP_MINOR": event.ProtocolMinor, "WEFT_HTTP_2": event.ProtocolHTTP2,
		"WEFT_HTTP_TLS": event.ProtocolTLS, "WEFT_HTTP_GRPC": event.ProtocolGRPC,
		"WEFT_HTTP_UNREAD": targetUnread,
	}
	for object, spec := range objects(t) {
		var c *btf.Enum
		if err := spec.TypeByName("weft_http", &c); err != nil {
			t.Fatalf("%s: %v: refer to it in bpf/weft.bpf.c", object, err)
		}
		if len(c.Values) != len(bits) {
			t.Errorf("%s: %d values, want %d", object, len(c.Values), len(bits))
		}
		for _, v := range c.Values {
			if got, ok := bits[v.Name]; !ok || uint64(got) != v.Value {
				t.Errorf("%s: %s is %d, and %d in Go", object, v.Name, v.Value, got)
			}
		}
	}
}

// TestABIVersion holds abiVersion to the header, the only place where C has it.
func TestABIVersion(t *testing.T) {
	header, err := os.ReadFile("../bpf/abi/event.h")
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`(?m)^#define WEFT_ABI_VERSION (\d+)$`).FindSubmatch(header)
	if match == nil {
		t.Fatal("bpf/abi/event.h defines no WEFT_ABI_VERSION")
	}
	if got := strconv.Itoa(abiVersion); got != string(match[1]) {
		t.Errorf("abiVersion is %s, WEFT_ABI_VERSION %s", got, match[1])
	}
}

// TestHeadComesFirst: Decode reads the head of every record before it knows
// which record it is.
func TestHeadComesFirst(t *testing.T) {
	for _, record := range []any{WeftWeftRequest{}, WeftWeftCarried{}, WeftWeftRoute{}, WeftWeftResponse{}, WeftWeftProcess{}, WeftWeftSocket{}} {
		f, ok := reflect.TypeOf(record).FieldByName("Head")
		if !ok || f.Offset != 0 || f.Type != reflect.TypeFor[WeftWeftEventHead]() {
			t.Errorf("%T does not begin with the event head", record)
		}
	}
	if size := binary.Size(WeftWeftEventHead{}); size != 16 {
		t.Errorf("event head: %d bytes, want 16", size)
	}
}
