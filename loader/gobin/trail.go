package gobin

import (
	"crypto/sha256"
	"hash"
	"io"
)

// trail records what was read of a file: where, and a digest of what was there. An
// analysis depends on nothing else, so a file that has the same there has the same
// analysis.
type trail struct {
	r      io.ReaderAt
	digest hash.Hash
	reads  []extent
	sum    [sha256.Size]byte
}

type extent struct {
	off int64
	len int
}

// ReadAt implements io.ReaderAt.
func (t *trail) ReadAt(p []byte, off int64) (int, error) {
	n, err := t.r.ReadAt(p, off)
	if last := len(t.reads) - 1; last >= 0 && t.reads[last].off+int64(t.reads[last].len) == off {
		t.reads[last].len += n
	} else {
		t.reads = append(t.reads, extent{off, n})
	}
	t.digest.Write(p[:n])
	return n, err
}

// end closes the record, and lets go of the file.
func (t *trail) end() {
	t.digest.Sum(t.sum[:0])
	t.r, t.digest = nil, nil
}

// same says whether another file has the same at all places.
func (t *trail) same(r io.ReaderAt) bool {
	digest := sha256.New()
	for _, e := range t.reads {
		if _, err := io.Copy(digest, io.NewSectionReader(r, e.off, int64(e.len))); err != nil {
			return false
		}
	}
	var sum [sha256.Size]byte
	digest.Sum(sum[:0])
	return sum == t.sum
}
