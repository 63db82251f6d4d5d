package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// imageRoot holds this test as the agent, which is a Go program with modules too,
// and another file.
func imageRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(root, "agent")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "certificates"), []byte("trust me\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

func write(t *testing.T, args ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := run(args, &out, t.Output()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func decode(t *testing.T, text []byte) *cdx.BOM {
	t.Helper()
	bom := new(cdx.BOM)
	if err := cdx.NewBOMDecoder(bytes.NewReader(text), cdx.BOMFileFormatJSON).Decode(bom); err != nil {
		t.Fatal(err)
	}
	return bom
}

// TestDeterministic: the same files under another folder, the same bytes.
func TestDeterministic(t *testing.T) {
	var bills [][]byte
	for range 2 {
		bills = append(bills, write(t, "-version", "v1.2.3", "-root", imageRoot(t), "/agent", "/certificates"))
	}
	if !bytes.Equal(bills[0], bills[1]) {
		t.Errorf("two bills differ:\n%s\n%s", bills[0], bills[1])
	}
	if bom := decode(t, bills[0]); bom.SerialNumber != "" || bom.Metadata.Timestamp != "" {
		t.Errorf("serial number %q, timestamp %q: want none", bom.SerialNumber, bom.Metadata.Timestamp)
	}
}

// TestContents: every linked module is listed, nothing else is, and hashes are
// those of the files.
func TestContents(t *testing.T) {
	root := imageRoot(t)
	bom := decode(t, write(t, "-version", "v1.2.3", "-root", root, "/agent", "/certificates"))
	info, err := buildinfo.ReadFile(filepath.Join(root, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"file:/certificates", "pkg:golang/stdlib@" + strings.TrimPrefix(info.GoVersion, "go")}
	for _, m := range info.Deps {
		want = append(want, "pkg:golang/"+strings.ToLower(m.Path)+"@"+strings.ReplaceAll(m.Version, "+", "%2B"))
	}
	if len(info.Deps) == 0 {
		t.Fatal("this test is linked with no module: it proves nothing")
	}
	var got []string
	for _, c := range *bom.Components {
		got = append(got, c.BOMRef)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("components\n%q, want\n%q", got, want)
	}
	linked := *(*bom.Dependencies)[0].Dependencies
	if len(linked) != len(info.Deps)+1 || (*bom.Dependencies)[0].Ref != "weft" {
		t.Errorf("weft depends on %q, want its %d modules and the standard library", linked, len(info.Deps))
	}
	main := bom.Metadata.Component
	if main.Name != "weft" || main.Version != "v1.2.3" || main.Description != "/agent" {
		t.Errorf("describes %s %s %s", main.Name, main.Version, main.Description)
	}
	for _, c := range append(*bom.Components, *main) {
		if c.Type != cdx.ComponentTypeFile && c.BOMRef != "weft" {
			continue
		}
		name := map[bool]string{true: "agent", false: "certificates"}[c.BOMRef == "weft"]
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(text)
		if c.Hashes == nil || len(*c.Hashes) != 1 || (*c.Hashes)[0].Value != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: hashes %v, want %x", name, c.Hashes, sum)
		}
	}
	settings := map[string]string{}
	for _, p := range *main.Properties {
		settings[p.Name] = p.Value
	}
	if settings["weft:build:GOARCH"] == "" || settings["weft:build:go"] != info.GoVersion {
		t.Errorf("properties %v lack the architecture or Go's version", settings)
	}
}

// TestLibrary: a replaced module is listed as what was linked in its place.
func TestLibrary(t *testing.T) {
	c := library(&debug.Module{Path: "example.org/Old", Version: "v1.0.0",
		Replace: &debug.Module{Path: "example.org/New/v2", Version: "v2.1.0+incompatible", Sum: "h1:abc="}})
	if want := "pkg:golang/example.org/new/v2@v2.1.0%2Bincompatible"; c.PackageURL != want || c.BOMRef != want {
		t.Errorf("package URL %s, want %s", c.PackageURL, want)
	}
	want := []cdx.Property{{Name: "weft:replaces", Value: "example.org/Old@v1.0.0"}, {Name: "weft:go.sum", Value: "h1:abc="}}
	if c.Properties == nil || !slices.Equal(*c.Properties, want) {
		t.Errorf("properties %v, want %v", c.Properties, want)
	}
}

// TestSchema validates against the schema that CycloneDX publishes, which its Go
// module carries.
func TestSchema(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatalf("find the schema: %v", err)
	}
	compiler := jsonschema.NewCompiler()
	const base = "http://cyclonedx.org/schema/"
	for name, file := range map[string]string{
		"bom-1.6.schema.json": "bom-1.6.schema.json", "spdx.schema.json": "spdx.schema.json",
		"jsf-0.82.schema.json": "jsf-0.82.schemax.json",
	} {
		f, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "schema", file))
		if err != nil {
			t.Fatal(err)
		}
		text, err := jsonschema.UnmarshalJSON(f)
		f.Close()
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if err := compiler.AddResource(base+name, text); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := compiler.Compile(base + "bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	validate := func(text []byte) error {
		bill, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(bill)
	}
	bill := write(t, "-root", imageRoot(t), "/agent", "/certificates")
	if err := validate(bill); err != nil {
		t.Errorf("%v\n%s", err, bill)
	}
	if validate(bytes.Replace(bill, []byte(`"library"`), []byte(`"thing"`), 1)) == nil {
		t.Error("the schema lets everything through")
	}
}

// TestErrors: one line each, saying which file.
func TestErrors(t *testing.T) {
	root := imageRoot(t)
	for said, args := range map[string][]string{
		"no file":    {"-root", root},
		"/absent":    {"-root", root, "/absent"},
		"/missing":   {"-root", root, "/agent", "/missing"},
		"begin it":   {"-root", root, "/agent", "certificates"},
		"build info": {"-root", root, "/certificates"},
	} {
		var out bytes.Buffer
		err := run(args, &out, t.Output())
		switch {
		case err == nil:
			t.Errorf("%q: no error", args)
		case !strings.Contains(err.Error(), said) || strings.Contains(err.Error(), "\n"):
			t.Errorf("%q: want one line with %q, got %v", args, said, err)
		case out.Len() > 0:
			t.Errorf("%q: wrote %s beside an error", args, &out)
		}
	}
}
