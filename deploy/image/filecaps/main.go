// Command filecaps gives an executable the capabilities that weft has a use for,
// permitted and effective, as setcap(8) would: the image that runs as an ordinary
// user is built where there is no setcap.
//
//	filecaps /out/usr/bin/weft
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"weft/internal/privilege"
)

// Attribute under which the kernel looks for them, capabilities(7), and the layout
// of linux/capability.h: struct vfs_cap_data, revision 2, little endian.
const (
	attribute = "security.capability"
	revision2 = 0x02000000
	effective = 0x000001
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "filecaps: %v\n", err)
		os.Exit(2)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("want one file: filecaps /out/usr/bin/weft")
	}
	var set privilege.Set
	for _, use := range privilege.Uses() {
		set |= privilege.SetOf(use.Capability)
	}
	if err := unix.Setxattr(args[0], attribute, encode(set), 0); err != nil {
		return fmt.Errorf("set %s of %s: %w; it takes CAP_SETFCAP and a file system with attributes", attribute, args[0], err)
	}
	return nil
}

// encode is a struct vfs_cap_data: flags, then permitted and inheritable for the
// lower and the upper 32 capabilities.
func encode(permitted privilege.Set) []byte {
	out := binary.LittleEndian.AppendUint32(nil, revision2|effective)
	for _, word := range []uint32{uint32(permitted), 0, uint32(permitted >> 32), 0} {
		out = binary.LittleEndian.AppendUint32(out, word)
	}
	return out
}
