package gobin

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
)

// vendored ends the prefix of a package that was built from a GOPATH's vendor
// folder. Modules keep the paths of what they vendor, and of what they replace.
const vendored = "vendor/"

// canonical is the name of a function without the prefix of a vendor folder, and
// without the mark of an assembler function.
func canonical(name []byte) []byte {
	if i := bytes.LastIndex(name, []byte(vendored)); i == 0 || i > 0 && name[i-1] == '/' {
		name = name[i+len(vendored):]
	}
	return bytes.TrimSuffix(name, []byte(".abi0"))
}

// readSymbols takes from the symbol table the functions and variables of wanted. It
// says whether there is a table.
func (i *image) readSymbols(wanted map[string]bool) (bool, error) {
	var table *elf.Section
	for _, s := range i.elf.Sections {
		if s.Type == elf.SHT_SYMTAB {
			table = s
		}
	}
	if table == nil || int(table.Link) >= len(i.elf.Sections) {
		return false, nil
	}
	symbols, err := i.section(table)
	if err != nil {
		return false, err
	}
	names, err := i.section(i.elf.Sections[table.Link])
	if err != nil {
		return false, err
	}
	i.symbols, i.functions = map[string]symbol{}, map[string][]function{}
	for ; len(symbols) >= elf.Sym64Size; symbols = symbols[elf.Sym64Size:] {
		kind := elf.ST_TYPE(symbols[4])
		at := uint64(binary.LittleEndian.Uint32(symbols))
		if kind != elf.STT_FUNC && kind != elf.STT_OBJECT && kind != elf.STT_TLS && kind != elf.STT_NOTYPE || at >= uint64(len(names)) {
			continue
		}
		end := bytes.IndexByte(names[at:], 0)
		if end <= 0 {
			continue
		}
		name := canonical(names[at : at+uint64(end)])
		if !wanted[string(name)] {
			continue
		}
		s := symbol{binary.LittleEndian.Uint64(symbols[8:]), binary.LittleEndian.Uint64(symbols[16:])}
		if binary.LittleEndian.Uint16(symbols[6:]) == uint16(elf.SHN_UNDEF) {
			continue
		}
		if kind == elf.STT_FUNC {
			i.addFunction(string(name), function{string(names[at : at+uint64(end)]), s.address, s.size})
		}
		i.symbols[string(name)] = s
	}
	return true, nil
}

func (i *image) addFunction(canonical string, f function) {
	for _, known := range i.functions[canonical] {
		if known.address == f.address {
			return
		}
	}
	i.functions[strings.Clone(canonical)] = append(i.functions[canonical], f)
}
