package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func TestHasSeries(t *testing.T) {
	for _, c := range []struct {
		version, series string
		want            bool
	}{
		{"6.1.0-50-cloud-amd64", "6.1", true}, {"6.12.90+deb12-cloud-amd64", "6.1", false},
		{"6.12.90+deb12-cloud-amd64", "6.12", true}, {"6.12.90+deb12-cloud-amd64", "6.12.90", true},
		{"6.12.90+deb12-cloud-amd64", "6.12.9", false}, {"6.1", "6.1", true}, {"5.10.0-1", "6.1", false},
	} {
		if got := hasSeries(c.version, c.series); got != c.want {
			t.Errorf("hasSeries(%q, %q) = %v", c.version, c.series, got)
		}
	}
}

func TestPickKernel(t *testing.T) {
	packages := parseStanzas([]byte(`Package: linux-image-6.1.0-9-cloud-amd64
Source: linux
Version: 6.1.27-1

Package: linux-image-6.1.0-50-cloud-amd64
Version: 6.1.176-1
Description: kernel
 Version: not a field

Package: linux-image-6.12.95+deb12-cloud-amd64
Version: 6.12.95-1

Package: linux-binary-7.1.3-cloud-amd64
Version: 7.1.3-1

Package: linux-binary-7.1.2-cloud-amd64
Version: 7.1.2-1

Package: linux-modules-7.1.2-cloud-amd64
Version: 7.1.2-1

Package: linux-image-7.2.0-cloud-amd64
Version: 7.2.0-1

Package: linux-binary-unsigned-7.2.0-cloud-amd64
Version: 7.2.0-1

Package: linux-modules-7.2.0-cloud-amd64
Version: 7.2.0-1`))
	if len(packages) != 9 {
		t.Fatalf("%d stanzas: %v", len(packages), packages)
	}
	versionOrder := []string{"6.1.27-1", "6.1.176-1", "6.12.95-1", "7.1.2-1", "7.1.3-1", "7.2.0-1"}
	newer := func(a, b string) bool { return slices.Index(versionOrder, a) > slices.Index(versionOrder, b) }
	for _, c := range []struct{ series, release, packages string }{
		{"6.1", "6.1.0-50-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64"},
		{"6.1.0-9", "6.1.0-9-cloud-amd64", "linux-image-6.1.0-9-cloud-amd64"},
		{"6.12", "6.12.95+deb12-cloud-amd64", "linux-image-6.12.95+deb12-cloud-amd64"},
		// 7.1.3 has lost its modules; 7.2.0 has an image that is only a shell.
		{"7.1", "7.1.2-cloud-amd64", "linux-binary-7.1.2-cloud-amd64 linux-modules-7.1.2-cloud-amd64"},
		{newest, "7.2.0-cloud-amd64", "linux-binary-unsigned-7.2.0-cloud-amd64 linux-modules-7.2.0-cloud-amd64"},
		{"4.19", "", ""},
	} {
		release, wanted := pickKernel(packages, c.series, newer)
		var names []string
		for _, p := range wanted {
			names = append(names, p.name)
		}
		if release != c.release || strings.Join(names, " ") != c.packages {
			t.Errorf("%s: %q of %v, want %q of %s", c.series, release, names, c.release, c.packages)
		}
	}
}

func TestExtractVmlinux(t *testing.T) {
	want := append([]byte("\x7fELF"), bytes.Repeat([]byte("vmlinux "), 10_000)...)
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, payload := range map[string][]byte{"plain": want, "zstd, then the size": encoder.EncodeAll(want, nil)} {
		if name != "plain" {
			payload = binary.LittleEndian.AppendUint32(payload, uint32(len(want)))
		}
		const setup, offset = 3 * 512, 100
		image := make([]byte, setup+offset, setup+offset+len(payload))
		image[0x1f1] = 2
		copy(image[0x202:], "HdrS")
		binary.LittleEndian.PutUint32(image[0x248:], offset)
		binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(payload)))
		image = append(image, payload...)
		got, err := extractVmlinux(image)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if _, err := extractVmlinux(image[:len(image)-1]); err == nil {
			t.Errorf("%s: a short image passes", name)
		}
	}
	if _, err := extractVmlinux([]byte("not an image")); err == nil {
		t.Error("garbage passes")
	}
}

// entry is what readArchive finds; a reader of its own keeps the writer honest.
type entry struct {
	mode    uint64
	content string
}

func readArchive(t *testing.T, data []byte) (names []string, entries map[string]entry) {
	t.Helper()
	entries = map[string]entry{}
	field := func(at, i int) int {
		n, err := strconv.ParseUint(string(data[at+6+8*i:at+14+8*i]), 16, 32)
		if err != nil {
			t.Fatalf("header at %d: %v", at, err)
		}
		return int(n)
	}
	for at := 0; ; {
		if string(data[at:at+6]) != "070701" {
			t.Fatalf("no header at %d", at)
		}
		mode, size, nameLen := field(at, 1), field(at, 6), field(at, 11)
		name := string(data[at+110 : at+110+nameLen-1])
		start := (at + 110 + nameLen + 3) &^ 3
		if name == "TRAILER!!!" {
			if len(data)%512 != 0 {
				t.Errorf("length %d is not aligned", len(data))
			}
			return names, entries
		}
		names = append(names, name)
		entries[name] = entry{uint64(mode), string(data[start : start+size])}
		at = (start + size + 3) &^ 3
	}
}

func TestArchive(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sub", "prog"), []byte("12345"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("sub/prog", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	a := newArchive(&out)
	for _, err := range []error{
		a.file("/etc/hosts", 0o644, []byte("hosts")), a.char("/dev/null", 0o666, 1, 3),
		a.tree(dir, "/opt/x"), a.tree(filepath.Join(dir, "link"), "/weft/bin/prog"), a.close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	names, entries := readArchive(t, out.Bytes())
	want := []string{"etc", "etc/hosts", "dev", "dev/null", "opt", "opt/x", "opt/x/link", "opt/x/sub", "opt/x/sub/prog",
		"weft", "weft/bin", "weft/bin/prog"}
	if !slices.Equal(names, want) {
		t.Errorf("names %v\nwant %v", names, want)
	}
	for name, want := range map[string]entry{
		"etc/hosts": {0o100644, "hosts"}, "dev/null": {0o020666, ""}, "opt/x/sub": {0o040755, ""},
		"opt/x/sub/prog": {0o100755, "12345"}, "opt/x/link": {0o120777, "sub/prog"},
		"weft/bin/prog": {0o100755, "12345"}, // a link named by the user is followed
	} {
		if entries[name] != want {
			t.Errorf("%s: %o %q, want %o %q", name, entries[name].mode, entries[name].content, want.mode, want.content)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, args := range [][]string{
		{}, {"-kernel", "", "--", "x"}, {"-cpus", "0", "--", "x"}, {"-memory", "1", "--", "x"},
		{"-timeout", "1ms", "--", "x"}, {"-get", "/a", "--", "x"}, {"-get", "a:b", "--", "x"},
	} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q passes", args)
		}
	}
	o, err := parse([]string{"-kernel", "5.10,6.1", "-add", "a:b", "-add", "c", "-packages", "curl", "--", "prog", "-x"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(o.kernels, []string{"5.10", "6.1"}) || !slices.Equal(o.add, []string{"a:b", "c"}) ||
		!slices.Equal(o.argv, []string{"prog", "-x"}) || !o.userland || !slices.Equal(o.packages, []string{"curl"}) {
		t.Errorf("parsed %+v", o)
	}
}

func TestTrouble(t *testing.T) {
	for line, want := range map[string]bool{
		"[    1.0] BUG: kernel NULL pointer dereference, address: 0": true,
		"[    1.0] Kernel panic - not syncing: Fatal exception":      true,
		"[    1.0] Oops: 0000 [#1] SMP":                              true,
		"[    1.0] WARNING: CPU: 0 PID: 1 at x.c":                    false,
		"[    1.0] DEBUG: fine":                                      false,
	} {
		if got := trouble.MatchString("[ 0.1] ok\n" + line + "\nmore"); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

// guestVariable makes this test binary act as the program in the guest.
const guestVariable = "WEFT_TEST_GUEST"

func TestMain(m *testing.M) {
	switch os.Getenv(guestVariable) {
	case "":
		os.Exit(m.Run())
	case "output": // all byte values, 1 MiB, and a file to fetch
		data := noise()
		if err := os.MkdirAll("/tmp/out/sub", 0o755); err != nil {
			panic(err)
		}
		if err := os.WriteFile("/tmp/out/sub/sum", fmt.Appendf(nil, "%x", sha256.Sum256(data)), 0o600); err != nil {
			panic(err)
		}
		if _, err := os.Stdout.Write(data); err != nil {
			panic(err)
		}
		os.Exit(7)
	case "hang":
		fmt.Println("hanging")
		time.Sleep(time.Hour)
	case "orphan": // leaves a child behind that holds its output open
		child := exec.Command("/proc/self/exe")
		child.Env, child.Stdout = append(os.Environ(), guestVariable+"=hang"), os.Stdout
		if err := child.Start(); err != nil {
			panic(err)
		}
	case "panic": // the kernel, not the program
		if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
			panic(err)
		}
	}
}

func noise() []byte {
	data := make([]byte, 1<<20)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(data) // never fails
	return data
}

// TestBoot boots real kernels; WEFT_TEST_KERNELS names them, as -kernel does.
func TestBoot(t *testing.T) {
	kernels := os.Getenv("WEFT_TEST_KERNELS")
	if kernels == "" {
		t.Skip("WEFT_TEST_KERNELS is empty; set it to, for example, 5.10,6.1 to boot those under QEMU")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "guest")
	build := exec.Command("go", "test", "-c", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for series := range strings.SplitSeq(kernels, ",") {
		boot := func(t *testing.T, what string, flags ...string) (int, []byte, error) {
			t.Helper()
			o, err := parse(slices.Concat([]string{"-kernel", series, "-env", guestVariable + "=" + what}, flags, []string{"--", program}))
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			status, err := run(t.Context(), o, &out)
			return status, out.Bytes(), err
		}
		t.Run(series+"/output", func(t *testing.T) {
			got := filepath.Join(dir, series)
			status, out, err := boot(t, "output", "-get", "/tmp/out:"+got)
			if err != nil || status != 7 {
				t.Errorf("status %d, %v; want 7", status, err)
			}
			if !bytes.Equal(out, noise()) {
				t.Errorf("%d bytes of output differ from what was written", len(out))
			}
			sum, err := os.ReadFile(filepath.Join(got, "sub", "sum"))
			if want := fmt.Sprintf("%x", sha256.Sum256(noise())); err != nil || string(sum) != want {
				t.Errorf("fetched %q, %v; want %s", sum, err, want)
			}
		})
		t.Run(series+"/timeout", func(t *testing.T) {
			status, out, err := boot(t, "hang", "-timeout", "2s")
			if err != nil || status != 2 || !bytes.Contains(out, []byte("SIGQUIT: quit")) || !bytes.Contains(out, []byte("goroutine 1")) {
				t.Errorf("status %d, %v, output %q; want 2 and the stacks", status, err, out)
			}
		})
		t.Run(series+"/orphan", func(t *testing.T) {
			if status, _, err := boot(t, "orphan"); err != nil || status != 0 {
				t.Errorf("status %d, %v; want 0", status, err)
			}
		})
		t.Run(series+"/panic", func(t *testing.T) {
			if _, _, err := boot(t, "panic"); err == nil || !strings.Contains(err.Error(), "sysrq triggered crash") {
				t.Errorf("error %v; want the kernel's words", err)
			}
		})
	}
}
