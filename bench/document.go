package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Markers around what the benchmark writes in the document, and before each section
// of it.
const (
	sectionsBegin = "<!-- make bench writes from here -->"
	sectionsEnd   = "<!-- to here -->"
	sectionMark   = "<!-- section %s -->"
)

// document is a page with what the benchmark wrote in the middle.
type document struct {
	before, after string
	sections      map[string]string // by name
}

// order is that of the page.
func order() []string {
	out := []string{"overview"}
	for _, s := range sections() {
		out = append(out, s.name)
	}
	return out
}

func readDocument(path string) (document, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return document{}, fmt.Errorf("open the document: %w", err)
	}
	before, rest, ok := strings.Cut(string(raw), sectionsBegin)
	middle, after, ok2 := strings.Cut(rest, sectionsEnd)
	if !ok || !ok2 {
		return document{}, fmt.Errorf("%s has no place for the tables: put a line %q and a line %q there", path, sectionsBegin, sectionsEnd)
	}
	d := document{before: before, after: after, sections: map[string]string{}}
	for _, name := range order() {
		_, text, found := strings.Cut(middle, fmt.Sprintf(sectionMark, name)+"\n")
		if !found {
			continue
		}
		text, _, _ = strings.Cut(text, strings.TrimSuffix(sectionMark, "%s -->")) // the next mark
		d.sections[name] = strings.TrimSpace(text)
	}
	return d, nil
}

// checkDocument is for before anything is measured.
func checkDocument(path string) error {
	_, err := readDocument(path)
	return err
}

// writeSection replaces one section of a document and leaves the others.
func writeSection(path, name, text string) error {
	d, err := readDocument(path)
	if err != nil {
		return err
	}
	if !slices.Contains(order(), name) {
		return fmt.Errorf("write the tables: no section %q", name)
	}
	d.sections[name] = strings.TrimSpace(text)
	var b strings.Builder
	b.WriteString(d.before + sectionsBegin + "\n")
	for _, name := range order() {
		if d.sections[name] != "" {
			fmt.Fprintf(&b, "\n"+sectionMark+"\n\n%s\n", name, d.sections[name])
		}
	}
	b.WriteString("\n" + sectionsEnd + d.after)
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write the tables: %w", err)
	}
	return nil
}

// plotOf is the picture that belongs to a document.
func plotOf(doc string) string { return strings.TrimSuffix(doc, filepath.Ext(doc)) + ".svg" }
