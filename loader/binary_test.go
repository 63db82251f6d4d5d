package loader

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestRuntimeByName(t *testing.T) {
	for _, c := range []struct {
		exe               string
		libraries         []string
		language, version string
	}{
		{"/usr/bin/python3.11", nil, "python", "3.11"},
		{"/usr/bin/python3", nil, "python", "3"},
		{"/opt/app", []string{"/lib/libc.so.6", "/lib/libpython3.12.so.1.0"}, "python", "3.12"},
		{"/usr/bin/node", nil, "javascript", ""},
		{"/usr/bin/app", []string{"libnode.so.108"}, "javascript", "108"},
		{"/usr/lib/jvm/bin/java", nil, "java", ""},
		{"/usr/bin/jsvc", []string{"/usr/lib/jvm/lib/server/libjvm.so"}, "java", ""},
		{"/usr/bin/ruby3.1", nil, "ruby", "3.1"},
		{"/usr/bin/puma", []string{"libruby-3.1.so.3.1"}, "ruby", "3.1"},
		{"/usr/sbin/php-fpm8.2", nil, "php", "8.2"},
		{"/usr/lib/erlang/bin/beam.smp", nil, "erlang", ""},
		{"/usr/bin/javascript-tool", []string{"libpythonic.so"}, "", ""},
		{"/usr/sbin/nginx", []string{"libssl.so.3", "libc.so.6"}, "", ""},
	} {
		got := runtimeOf("/nowhere", c.exe, c.libraries)
		if got.Language != c.language || got.Version != c.version || (got.Evidence == "") != (c.language == "") {
			t.Errorf("%s %v: %+v", c.exe, c.libraries, got)
		}
	}
}

func TestInspectFileSelf(t *testing.T) {
	b, err := InspectFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if b.Kind != "executable" || b.Runtime.Language != "go" || b.Machine == "" {
		t.Errorf("%+v", b)
	}
}

func TestInspectFileLibrary(t *testing.T) {
	libraries, err := filepath.Glob("/usr/lib/*/libssl.so.*")
	if err != nil || len(libraries) == 0 {
		t.Skip("no libssl.so here")
	}
	b, err := InspectFile(libraries[0])
	if err != nil {
		t.Fatal(err)
	}
	if b.Kind != "shared library" || b.Linking != "dynamic" || b.OpenSSL != "contains SSL_write" || b.Runtime.Language != "" {
		t.Errorf("%+v", b)
	}
}

func TestInspectGone(t *testing.T) {
	var no *NoProcessError
	if _, err := Inspect(0x7fffffff); !errors.As(err, &no) || no.Why != "does not exist" {
		t.Errorf("%v", err)
	}
	if os.Geteuid() == 0 {
		if _, err := Inspect(2); !errors.As(err, &no) { // kthreadd
			t.Errorf("%v", err)
		}
	}
}
