package gobin

import "weft/loader/gobin/field"

// Binary is what an executable tells.
type Binary struct {
	Path      string
	Machine   string            // as in ELF: "x86_64", "aarch64"
	GoVersion string            // "go1.26.0"; "go1.20 or newer" where there is no build information; "" unknown
	Modules   map[string]string // version by module path; that of a replacement under both its paths
	BuildInfo bool              // the file says who built it
	Stripped  bool              // no symbol table
	DWARF     bool
	PIE       bool
	Cgo       bool
	Race      bool

	Probes []Probe  // in order of site, then address
	Absent []Absent // sites that cannot be attached, in order
	Layout Layout
	Source Source // of Layout
	// Uncovered are "Go" and modules in the program of whose version nothing is in the
	// table: their offsets are the file's own, or none.
	Uncovered []string
	Problems  []string // what else is not known, a line each
	// Degraded are what is lost by functions that are not as weft knows them, a line each.
	Degraded []string
}

// Probe is one instruction to attach to.
type Probe struct {
	Site        Site
	Function    string // as the linker names it
	Address     uint64 // virtual, before the load bias
	Offset      uint64 // in the file
	Instruction string
	Emulated    bool // by the kernel; else it is single-stepped, several times as dear
	Guarded     bool // on the jump of the stack check, see Layout.Guarded
}

// Absent says on one line why a site is not there.
type Absent struct {
	Site Site
	Why  string
}

// Source says where offsets are from.
type Source string

// The sources.
const (
	SourceDWARF   Source = "dwarf"   // the file's own debugging information
	SourceTable   Source = "table"   // of exactly these versions
	SourceNearest Source = "nearest" // some from the table of another version: weft observes, and never writes
	SourceUnknown Source = "unknown"
)

// Flags of a layout, enum weft_go_flag.
const (
	FlagGoroutines uint32 = 1 << iota
	FlagWrites
	FlagRegister
	FlagWritesH2
	FlagWritesXNet
	FlagWritesGRPC
	FlagWrote
	FlagTimerPointer
)

// Layout is struct weft_go_layout.
type Layout struct {
	Goidgen uint64
	Allp    uint64
	Allgs   uint64
	Image   uint64 // lowest address of the executable
	Size    uint64 // bytes from there to the end of its highest segment
	Guarded uint64 // bit per site
	TLSG    int32
	Flags   uint32
	Offset  [field.Count]uint16
}
