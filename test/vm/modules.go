package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// module is a kernel module, decompressed.
type module struct {
	name string
	text []byte
}

// resolveModules reads the named modules below dir and what they depend on, in
// the order to load them. A module that is built in needs no file; one that the
// kernel is known not to have at all is reported in missing. (modules.dep is made by
// depmod at installation, so the .modinfo sections are read instead.)
func resolveModules(dir string, names []string) (order []module, missing []string, err error) {
	files := map[string]string{}
	err = filepath.WalkDir(dir, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := moduleName(p); name != "" && !entry.IsDir() {
			files[name] = p
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list modules: %w", err)
	}
	builtin := map[string]bool{}
	text, err := os.ReadFile(filepath.Join(dir, "modules.builtin")) // since 7.3 in a package of its own
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("list built-in modules: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		builtin[moduleName(strings.TrimSpace(line))] = true
	}
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		if seen[name] || builtin[name] {
			return nil
		}
		seen[name] = true
		file, ok := files[name]
		if !ok {
			if len(builtin) > 0 { // else it may well be built in
				missing = append(missing, name)
			}
			return nil
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		ko, err := decompress(raw)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		depends, err := moduleDepends(ko)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, d := range depends {
			if err := visit(d); err != nil {
				return err
			}
		}
		order = append(order, module{name, ko})
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, nil, err
		}
	}
	return order, missing, nil
}

// moduleName is the module a file holds: "…/tcp-x.ko.xz" is tcp_x.
func moduleName(p string) string {
	name, _, ok := strings.Cut(path.Base(p), ".ko")
	if !ok {
		return ""
	}
	return strings.ReplaceAll(name, "-", "_")
}

func moduleDepends(ko []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return nil, fmt.Errorf("parse ELF: %w", err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no .modinfo section")
	}
	text, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read .modinfo: %w", err)
	}
	for field := range strings.SplitSeq(string(text), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}
