package gobin

import "testing"

// TestCanonical: names of functions in vendor folders, and of assembler.
func TestCanonical(t *testing.T) {
	for name, want := range map[string]string{
		"net/http.(*conn).serve": "net/http.(*conn).serve",
		"k8s.io/kubernetes/vendor/google.golang.org/grpc.(*Server).handleStream": "google.golang.org/grpc.(*Server).handleStream",
		"vendor/golang.org/x/net/http2/hpack.NewDecoder":                         "golang.org/x/net/http2/hpack.NewDecoder",
		"a.org/b/vendor/c.org/d/vendor/e.org/f.G":                                "e.org/f.G",
		"a.org/myvendor/b.C":  "a.org/myvendor/b.C",
		"runtime.load_g.abi0": "runtime.load_g",
	} {
		if got := string(canonical([]byte(name))); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestOriginates: which function of grpc-go is asked for its headers.
func TestOriginates(t *testing.T) {
	old := map[string][]function{originateStream: {{}}, headerHandler: {{}}}
	for _, c := range []struct {
		functions map[string][]function
		version   string
		want      string
		why       bool
	}{
		{old, "v1.50.1", headerHandler, false},
		{old, "v1.52.3", headerHandler, false},
		{old, "v1.53.0", originateStream, false},
		{old, "v1.60.1", originateStream, false},
		{old, "", "", true},
		{old, "(devel)", "", true},
		{map[string][]function{clientHeaderHandler: {{}}}, "", clientHeaderHandler, false},
		{nil, "v1.60.1", "", false},
	} {
		names, why := originates(c.functions, c.version)
		got := ""
		if len(names) > 0 {
			got = names[0]
		}
		if got != c.want || (why != "") != c.why {
			t.Errorf("%s: %q (%s), want %q", c.version, got, why, c.want)
		}
	}
}

// TestVEX: the length of instructions that the decoder does not know, as objdump
// has them.
func TestVEX(t *testing.T) {
	for _, code := range []string{
		"\xc5\xf8\x77",                             // vzeroupper
		"\xc5\xfe\x6f\x06",                         // vmovdqu (%rsi),%ymm0
		"\xc5\xfe\x7f\x44\x24\x20",                 // vmovdqu %ymm0,0x20(%rsp)
		"\xc4\xe2\xf1\xf7\xc0",                     // shlx %rcx,%rax,%rax
		"\xc4\xe3\xfb\xf0\xc8\x07",                 // rorx $0x7,%rax,%rcx
		"\xc5\xfd\x70\xc1\x4e",                     // vpshufd $0x4e,%ymm1,%ymm0
		"\xc5\xfb\x10\x05\x00\x01\x00\x00",         // vmovsd 0x100(%rip),%xmm0
		"\xc4\xe2\x7d\x18\x04\x8d\x00\x01\x00\x00", // vbroadcastss 0x100(,%rcx,4),%ymm0
		"\x62\xf1\xfe\x48\x6f\x46\x01",             // vmovdqu64 0x40(%rsi),%zmm0
	} {
		if n, ok := vexLength([]byte(code + "\x90\x90\x90\x90\x90\x90")); !ok || n != len(code) {
			t.Errorf("% x: %d bytes, %v, want %d", code, n, ok, len(code))
		}
		if _, ok := vexLength([]byte(code[:1])); ok {
			t.Errorf("% x: the first byte is taken for all", code)
		}
	}
}

// TestStackCheck: the three forms by the size of the frame; more than the compiler's
// limit of one page has the third.
func TestStackCheck(t *testing.T) {
	for name, c := range map[string]struct {
		code string
		at   int
		ok   bool
	}{
		"small": {"\x49\x3b\x66\x10\x76\x2e\x55", 4, true},
		"large": {"\x4c\x8d\x64\x24\xd0\x4d\x3b\x66\x10\x0f\x86\x99\x03\x00\x00\x55", 9, true},
		"huge": {"\x49\x89\xe4\x49\x81\xec\x00\x20\x00\x00\x0f\x82\x10\x01\x00\x00\x4d\x3b\x66\x10\x0f\x86\x06\x01\x00\x00\x55",
			20, true},
		"leaf":       {"\x48\x8b\x00\xc3\x90\x90\x90\x90", 0, false},
		"other jump": {"\x49\x3b\x66\x10\x72\x2e\x55", 4, false},
		"cut short":  {"\x49\x3b\x66\x10", 0, false},
	} {
		at, ok := amd64{}.stackCheck([]byte(c.code), 0x1000)
		if ok != c.ok || ok && at != c.at {
			t.Errorf("%s: %d, %v, want %d, %v", name, at, ok, c.at, c.ok)
		}
	}
}

// TestEntryWithoutStackCheck: the first emulated instruction before an argument is
// gone and before anything can come back to it, else the first.
func TestEntryWithoutStackCheck(t *testing.T) {
	for name, c := range map[string]struct {
		code     string
		at       int
		emulated bool
	}{
		"push":            {"\x55\x48\x89\xe5\xc3", 0, true},
		"compare, branch": {"\x48\x85\xc0\x74\x05\x48\x89\xc3\xc3\x90\xc3", 3, true},
		"loaded over":     {"\x48\x8b\x00\x74\x05\xc3\x90\x90\x90\x90\xc3", 0, false},
		// The jump at 3 leads back to itself's predecessor: it may run many times.
		"loop": {"\x48\x85\xc0\x48\x85\xdb\x75\xfb\xc3", 0, false},
	} {
		p, err := entry(amd64{}, []byte(c.code), 0x1000)
		if err != nil || p.at != c.at || p.emulated != c.emulated || p.guarded {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}
