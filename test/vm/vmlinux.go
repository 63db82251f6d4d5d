package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// extractVmlinux takes the ELF image out of a bzImage. QEMU enters it by its
// PVH note, so that the decompressor need not run under emulation, which would
// take longer than the rest of the boot. Offsets: Documentation/arch/x86/boot.rst.
func extractVmlinux(image []byte) ([]byte, error) {
	if len(image) < 0x250 || string(image[0x202:0x206]) != "HdrS" {
		return nil, errors.New("not a bzImage")
	}
	setup := (int(image[0x1f1]) + 1) * 512
	offset := int(binary.LittleEndian.Uint32(image[0x248:]))
	length := int(binary.LittleEndian.Uint32(image[0x24c:]))
	if setup+offset+length > len(image) || length < 8 {
		return nil, errors.New("payload lies outside the image")
	}
	elf, err := decompress(image[setup+offset : setup+offset+length])
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(elf, []byte("\x7fELF")) {
		return nil, errors.New("payload is not ELF")
	}
	return elf, nil
}

// decompress undoes whatever compression the first bytes show; none is fine.
func decompress(data []byte) ([]byte, error) {
	var r io.Reader
	var err error
	switch {
	case bytes.HasPrefix(data, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		// A kernel payload has no frame size and a window larger than the default limit.
		var z *zstd.Decoder
		if z, err = zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderMaxWindow(1<<30)); err == nil {
			defer z.Close()
			r = z
		}
	case bytes.HasPrefix(data, []byte{0x02, 0x21, 0x4c, 0x18}):
		r = lz4.NewReader(bytes.NewReader(data)) // legacy frame
	case bytes.HasPrefix(data, []byte("\xfd7zXZ\x00")):
		r, err = xz.NewReader(bytes.NewReader(data))
	case bytes.HasPrefix(data, []byte{0x1f, 0x8b}):
		r, err = gzip.NewReader(bytes.NewReader(data))
	default:
		return data, nil
	}
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	var out bytes.Buffer
	_, err = io.Copy(&out, r)
	// The kernel build appends the uncompressed size, four bytes that are not
	// part of the stream; readers that look for a further frame object to them.
	if err != nil && out.Len() >= 4 && bytes.Equal(data[len(data)-4:], binary.LittleEndian.AppendUint32(nil, uint32(out.Len()))) {
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return out.Bytes(), nil
}
