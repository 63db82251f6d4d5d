// Command sbom writes the bill of materials of the image: CycloneDX 1.6, JSON,
// on standard output.
//
//	sbom -version v1.2.3 -root /out /usr/bin/weft /etc/ssl/certs/ca-certificates.crt
//
// The first file is the agent: its modules are read from what the Go toolchain
// recorded in it, so the list is of what was linked and not of what go.mod asks
// for. Further files are listed with their hashes. All names are those in the
// image, below -root.
//
// The same files give the same bytes: there is no timestamp and no serial
// number, both of which CycloneDX leaves optional.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintf(os.Stderr, "sbom: %v\n", err)
		}
		os.Exit(2)
	}
}

func run(args []string, out, usage io.Writer) error {
	flags := flag.NewFlagSet("sbom", flag.ContinueOnError)
	flags.SetOutput(usage)
	version := flags.String("version", "dev", "version of the agent")
	root := flags.String("root", "/", "folder that becomes the image's root")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("no file; name the agent first, as it is called in the image: sbom -root /out /usr/bin/weft")
	}
	bom, err := billOf(*root, *version, flags.Arg(0), flags.Args()[1:])
	if err != nil {
		return err
	}
	encoder := cdx.NewBOMEncoder(out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	if err := encoder.EncodeVersion(bom, cdx.SpecVersion1_6); err != nil {
		return fmt.Errorf("write the bill: %w", err)
	}
	return nil
}

// billOf lists the modules of agent and the files, all below root.
func billOf(root, version, agent string, files []string) (*cdx.BOM, error) {
	info, err := buildinfo.ReadFile(filepath.Join(root, agent))
	if err != nil {
		return nil, fmt.Errorf("read build info: %w", err)
	}
	main, err := component(root, agent)
	if err != nil {
		return nil, err
	}
	main.Type = cdx.ComponentTypeApplication
	main.Name = "weft"
	main.Version = version
	main.BOMRef = "weft"
	main.Description = agent
	main.Properties = properties(info)

	var parts []cdx.Component
	for _, module := range info.Deps {
		parts = append(parts, library(module))
	}
	// The name under which the Go vulnerability database lists it.
	parts = append(parts, library(&debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}))
	slices.SortFunc(parts, func(a, b cdx.Component) int { return strings.Compare(a.BOMRef, b.BOMRef) })

	links := []string{}
	for _, p := range parts {
		links = append(links, p.BOMRef)
	}
	for _, file := range files {
		c, err := component(root, file)
		if err != nil {
			return nil, err
		}
		parts = append(parts, *c)
	}

	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: main}
	bom.Components = &parts
	// Build info says which modules were linked, not which of them imports which.
	bom.Dependencies = &[]cdx.Dependency{{Ref: main.BOMRef, Dependencies: &links}}
	bom.Compositions = &[]cdx.Composition{
		{Aggregate: cdx.CompositionAggregateComplete, Assemblies: &[]cdx.BOMReference{cdx.BOMReference(main.BOMRef)}},
		{Aggregate: cdx.CompositionAggregateIncomplete, Dependencies: &[]cdx.BOMReference{cdx.BOMReference(main.BOMRef)}},
	}
	return bom, nil
}

// component is a file of the image with its SHA-256.
func component(root, name string) (*cdx.Component, error) {
	if !filepath.IsAbs(name) {
		return nil, fmt.Errorf("%s is not a name in the image; begin it with / and give the folder as -root", name)
	}
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	return &cdx.Component{
		BOMRef: "file:" + name,
		Type:   cdx.ComponentTypeFile,
		Name:   name,
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}},
	}, nil
}

// library is a module as it was linked: of one that go.mod replaces, the
// replacement.
func library(module *debug.Module) cdx.Component {
	var notes []cdx.Property
	if module.Replace != nil {
		notes = append(notes, cdx.Property{Name: "weft:replaces", Value: module.Path + "@" + module.Version})
		module = module.Replace
	}
	if module.Sum != "" {
		// A hash of the module's file list: not one of CycloneDX's algorithms.
		notes = append(notes, cdx.Property{Name: "weft:go.sum", Value: module.Sum})
	}
	name := packageURL(module)
	c := cdx.Component{BOMRef: name, Type: cdx.ComponentTypeLibrary, Name: module.Path, Version: module.Version,
		PackageURL: name, Scope: cdx.ScopeRequired}
	if len(notes) > 0 {
		c.Properties = &notes
	}
	return c
}

// packageURL follows the purl specification's type golang, which wants lower
// case.
func packageURL(module *debug.Module) string {
	var path []string
	for segment := range strings.SplitSeq(strings.ToLower(module.Path), "/") {
		path = append(path, url.QueryEscape(segment))
	}
	name := "pkg:golang/" + strings.Join(path, "/")
	if module.Version != "" {
		name += "@" + url.QueryEscape(module.Version)
	}
	return name
}

// properties are the settings that decide what the compiler makes.
func properties(info *debug.BuildInfo) *[]cdx.Property {
	list := []cdx.Property{
		{Name: "weft:build:go", Value: info.GoVersion},
		{Name: "weft:build:package", Value: info.Path},
	}
	for _, s := range info.Settings { // sorted by the toolchain
		list = append(list, cdx.Property{Name: "weft:build:" + s.Key, Value: s.Value})
	}
	return &list
}
