// Package image builds the Dockerfile with buildah, as a release would, and looks
// into what comes out. No registry is asked: this machine's own /usr and Go
// toolchain stand in the place of the base image. Not tested here: pulling that.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"os"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"weft/internal/privilege"
)

// maxSize bounds what a node has to pull and keep, in bytes, uncompressed.
const maxSize = 40 << 20

const (
	agent        = "usr/bin/weft"
	certificates = "etc/ssl/certs/ca-certificates.crt"
	bill         = "usr/share/sbom/weft.cdx.json"
)

// tree is all that an image may consist of, with permissions.
var tree = map[string]int64{
	"etc": 0o755, "etc/ssl": 0o755, "etc/ssl/certs": 0o755, certificates: 0o644,
	"usr": 0o755, "usr/bin": 0o755, agent: 0o755,
	"usr/share": 0o755, "usr/share/sbom": 0o755, bill: 0o644,
}

// TestImage builds all images and checks each: files, configuration, bill,
// binary; then the same again, and what it may do once it runs.
func TestImage(t *testing.T) {
	b := newBuilder(t)
	b.base(t)
	native := elfMachines[b.arch]
	if native == 0 {
		t.Fatalf("no image is made for %s", b.arch)
	}

	first := b.build(t, "", b.arch, b.goCache)
	nonroot := b.build(t, "nonroot", b.arch, b.goCache)
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[b.arch]
	foreign := b.build(t, "", other, b.goCache)

	for _, i := range []struct {
		*image
		arch, user string
	}{{first, b.arch, "0:0"}, {nonroot, b.arch, "65532:65532"}, {foreign, other, "0:0"}} {
		t.Run(i.name, func(t *testing.T) {
			checkTree(t, i.image)
			checkConfig(t, i.image, i.arch, i.user)
			checkBinary(t, i.image, i.arch)
			checkBill(t, i.image, i.arch)
			t.Logf("%.1f MiB, %.1f MiB to pull", float64(i.size)/(1<<20), float64(i.compressed)/(1<<20))
			if i.size > maxSize {
				t.Errorf("the image has %d bytes, want at most %d", i.size, maxSize)
			}
		})
	}
	t.Run("capabilities", func(t *testing.T) { checkCapabilities(t, first, nonroot) })
	t.Run("run", func(t *testing.T) { checkRun(t, b, first, nonroot) })
	t.Run("reproducible", func(t *testing.T) { checkReproducible(t, b, first) })
}

func checkTree(t *testing.T, i *image) {
	t.Helper()
	for name, f := range i.files {
		mode, ok := tree[name]
		if !ok {
			t.Errorf("%s has no business in the image", name)
			continue
		}
		want := byte(tar.TypeDir)
		if strings.Contains(name, ".") || name == agent {
			want = tar.TypeReg
		}
		if f.Typeflag != want || f.Mode&0o7777 != mode || f.Uid != 0 || f.Gid != 0 {
			t.Errorf("%s: type %c, mode %o, owner %d:%d; want %c, %o, 0:0", name, f.Typeflag, f.Mode, f.Uid, f.Gid, want, mode)
		}
		if f.ModTime.Unix() != 0 {
			t.Errorf("%s is of %s, want the given time", name, f.ModTime)
		}
	}
	for name := range tree {
		if i.files[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
	host, err := os.ReadFile("/" + certificates)
	if err != nil {
		t.Fatal(err)
	}
	if f := i.files[certificates]; f != nil && !bytes.Equal(f.text, host) {
		t.Error("the certificates are not the base image's")
	}
}

func checkConfig(t *testing.T, i *image, arch, user string) {
	t.Helper()
	c := i.config
	if c.OS != "linux" || c.Architecture != arch {
		t.Errorf("is for %s/%s, want linux/%s", c.OS, c.Architecture, arch)
	}
	if c.Config.User != user {
		t.Errorf("runs as %q, want %q", c.Config.User, user)
	}
	if got := c.Config.Entrypoint; !slices.Equal(got, []string{"/" + agent}) {
		t.Errorf("entry point %q", got)
	}
	if got := c.Config.Cmd; !slices.Equal(got, []string{"run", "--config", "/etc/weft/weft.yaml"}) {
		t.Errorf("command %q", got)
	}
	if c.Config.WorkingDir != "" && c.Config.WorkingDir != "/" {
		t.Errorf("working folder %q, which is not in the image", c.Config.WorkingDir)
	}
	const prefix = "org.opencontainers.image."
	for label, want := range map[string]string{"title": "weft", "version": version, "revision": revision} {
		if got := c.Config.Labels[prefix+label]; got != want {
			t.Errorf("label %s is %q, want %q", label, got, want)
		}
	}
	if c.Config.Labels[prefix+"description"] == "" {
		t.Error("no label description")
	}
	for _, kv := range c.Config.Env {
		if name, _, _ := strings.Cut(kv, "="); name != "PATH" { // builders add it
			t.Errorf("sets %s for every container", name)
		}
	}
}

var elfMachines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// checkBinary: an image made from nothing has no loader and no libraries.
func checkBinary(t *testing.T, i *image, arch string) {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(i.read(t, agent)))
	if err != nil {
		t.Fatal(err)
	}
	if f.Machine != elfMachines[arch] {
		t.Errorf("built for %s, want %s", f.Machine, elfMachines[arch])
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("has a %s segment: it needs a dynamic linker", p.Type)
		}
	}
	if f.Section(".symtab") != nil || f.Section(".debug_info") != nil {
		t.Error("is not stripped")
	}
}

// checkBill: the bill lists each file of the image but itself, with its hash, and
// each module of the agent.
func checkBill(t *testing.T, i *image, arch string) {
	t.Helper()
	bom := new(cdx.BOM)
	if err := cdx.NewBOMDecoder(bytes.NewReader(i.read(t, bill)), cdx.BOMFileFormatJSON).Decode(bom); err != nil {
		t.Fatal(err)
	}
	hashes, modules := map[string]string{}, []string{}
	for _, c := range append(*bom.Components, *bom.Metadata.Component) {
		switch c.Type {
		case cdx.ComponentTypeFile:
			hashes[c.Name] = (*c.Hashes)[0].Value
		case cdx.ComponentTypeApplication:
			hashes[c.Description] = (*c.Hashes)[0].Value
			if c.Name != "weft" || c.Version != version {
				t.Errorf("the bill is of %s %s, want weft %s", c.Name, c.Version, version)
			}
			if want := (cdx.Property{Name: "weft:build:GOARCH", Value: arch}); !slices.Contains(*c.Properties, want) {
				t.Errorf("the bill does not say %v", want)
			}
		case cdx.ComponentTypeLibrary:
			modules = append(modules, c.Name+" "+c.Version)
		}
	}
	for name, f := range i.files {
		if f.Typeflag != tar.TypeReg || name == bill {
			continue
		}
		sum := sha256.Sum256(f.text)
		if got := hashes["/"+name]; got != hex.EncodeToString(sum[:]) {
			t.Errorf("the bill gives /%s the hash %q, want %x", name, got, sum)
		}
	}
	info, err := buildinfo.Read(bytes.NewReader(i.read(t, agent)))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"stdlib " + strings.TrimPrefix(info.GoVersion, "go")}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		want = append(want, m.Path+" "+m.Version)
	}
	slices.Sort(modules)
	slices.Sort(want)
	if !slices.Equal(modules, want) {
		t.Errorf("the bill lists %q, linked are %q", modules, want)
	}
}

// checkCapabilities: the images differ in an attribute of the agent alone.
func checkCapabilities(t *testing.T, plain, nonroot *image) {
	t.Helper()
	const attribute = "SCHILY.xattr.security.capability"
	for name, f := range nonroot.files {
		if got, ok := f.PAXRecords[attribute]; ok != (name == agent) {
			t.Errorf("%s has capabilities %x", name, got)
		}
		if p := plain.files[name]; p == nil || !bytes.Equal(f.text, p.text) {
			t.Errorf("%s is not what it is in the default image", name)
		}
	}
	for name, f := range plain.files {
		if got, ok := f.PAXRecords[attribute]; ok {
			t.Errorf("%s has capabilities %x in the default image", name, got)
		}
	}
}

// checkRun runs the finished images with the capabilities that weft has a use for
// and no others: doctor must decide as it does on the host.
func checkRun(t *testing.T, b *builder, plain, nonroot *image) {
	t.Helper()
	all := strings.Split(strings.ToUpper(privilege.All()), ",")
	host := b.onHost(t, plain.read(t, agent), "doctor")
	if host.status == 2 {
		t.Logf("weft cannot run on this machine, nor in a container on it:\n%s", host.output)
	}
	for _, i := range []*image{plain, nonroot} {
		t.Run(i.name, func(t *testing.T) {
			said := b.run(t, i, all, "version")
			if said.status != 0 || !strings.HasPrefix(said.output, "weft "+version+"\n") {
				t.Errorf("weft version: status %d\n%s", said.status, said.output)
			}
			said = b.run(t, i, all, "doctor")
			if said.status != host.status {
				t.Errorf("weft doctor: status %d, on the host %d\n%s\non the host\n%s", said.status, host.status, said.output, host.output)
			}
			for _, c := range all {
				if want := "✓ " + strings.ToLower(c); !strings.Contains(said.output, want) {
					t.Errorf("weft doctor does not say %q\n%s", want, said.output)
				}
			}
			if said = b.run(t, i, all, i.config.Config.Cmd...); said.status != 2 || !strings.Contains(said.output, "/etc/weft/weft.yaml") {
				t.Errorf("weft run without a configuration: status %d\n%s", said.status, said.output)
			}
		})
	}

	// What docs/image.md says of too few.
	few := all[1:]
	said := b.run(t, plain, few, "doctor")
	if said.status != 2 || !strings.Contains(said.output, "✗ "+strings.ToLower(all[0])) {
		t.Errorf("the default image without %s: status %d\n%s", all[0], said.status, said.output)
	}
	said = b.run(t, nonroot, few, "version")
	if said.status == 0 || !strings.Contains(said.output, "operation not permitted") {
		t.Errorf("the nonroot image without %s: status %d; want it not to be executed\n%s", all[0], said.status, said.output)
	}
}

// checkReproducible builds once more, in CI from an empty build cache: nothing of
// the first build, and nothing of this machine but the base, is in the second.
func checkReproducible(t *testing.T, b *builder, first *image) {
	t.Helper()
	cache := b.goCache
	if os.Getenv("CI") == "true" {
		cache = t.TempDir()
	}
	second := b.build(t, "", b.arch, cache)
	if !slices.Equal(first.layers, second.layers) {
		t.Errorf("two builds have layers %q and %q", first.layers, second.layers)
	}
	if first.digest != second.digest {
		t.Errorf("two builds have configurations\n%s\n%s", first.rawConfig, second.rawConfig)
	}
	for name, f := range first.files {
		if s := second.files[name]; s != nil && !bytes.Equal(f.text, s.text) {
			t.Errorf("%s differs between two builds", name)
		}
	}
}
