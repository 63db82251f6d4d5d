package gobin

import (
	"crypto/sha256"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
)

// Cache keeps analyses. A file that was analysed is known by its inode; a copy of it,
// such as the same image's file in another container, by what it has at all the
// places that the analysis looked at. That is read again and compared by digest: a
// file made to look like another one, up to some identification, would have probes
// set in the middle of the other's instructions. Use NewCache. A Cache may be used
// concurrently.
type Cache struct {
	limit int

	mu       sync.Mutex
	analysed int
	inodes   map[inode]*known
	copies   map[likeness][]*known // those read in full
	order    []inode               // oldest first
}

// inode is a file as it is since its last change.
type inode struct {
	device, number    uint64
	size              int64
	modified, changed syscall.Timespec
}

// likeness is what copies have in common at first sight: the size, and the first
// page, with headers and build ID.
type likeness struct {
	size int64
	page [sha256.Size]byte
}

// known is an analysis, which may be under way until done is closed.
type known struct {
	done   chan struct{}
	binary *Binary
	err    error
	like   likeness
	trail  trail
}

// maxAlike bounds how many files a copy is compared with.
const maxAlike = 8

// NewCache keeps the analyses of up to limit files.
func NewCache(limit int) *Cache {
	return &Cache{limit: max(limit, 1), inodes: map[inode]*known{}, copies: map[likeness][]*known{}}
}

// Analyze is AnalyzeFile, unless that is known, errors too. The result is shared and
// must not be changed; its path is that of the file that was read first.
func (c *Cache) Analyze(f *os.File, path string) (*Binary, error) {
	id, err := inodeOf(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	k, mine := c.enter(id)
	if mine {
		c.read(k, f, id, path)
		close(k.done)
	}
	<-k.done
	return k.binary, k.err
}

// Analysed is how many files were read in full.
func (c *Cache) Analysed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.analysed
}

// enter is the analysis of a file; it is the caller's to make if mine.
func (c *Cache) enter(id inode) (k *known, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.inodes[id]; k != nil {
		return k, false
	}
	if len(c.order) >= c.limit {
		c.forget(c.order[0])
	}
	k = &known{done: make(chan struct{})}
	c.inodes[id] = k
	c.order = append(c.order, id)
	return k, true
}

// forget is called with the lock held.
func (c *Cache) forget(id inode) {
	k := c.inodes[id]
	if k == nil {
		return
	}
	delete(c.inodes, id)
	c.order = slices.DeleteFunc(c.order, func(other inode) bool { return other == id })
	c.copies[k.like] = slices.DeleteFunc(c.copies[k.like], func(other *known) bool { return other == k })
	if len(c.copies[k.like]) == 0 {
		delete(c.copies, k.like)
	}
}

// read fills k: from a copy of the file, else from the file.
func (c *Cache) read(k *known, f *os.File, id inode, path string) {
	first := make([]byte, min(4096, id.size))
	if _, err := f.ReadAt(first, 0); err != nil {
		k.err = fmt.Errorf("%s: %w", path, err)
		return
	}
	like := likeness{id.size, sha256.Sum256(first)}
	c.mu.Lock()
	alike := slices.Clone(c.copies[like])
	c.mu.Unlock()
	for _, other := range alike {
		if other.trail.same(f) {
			k.binary, k.err = other.binary, other.err
			return
		}
	}
	t := trail{r: f, digest: sha256.New()}
	k.binary, k.err = analyze(f, &t, path)
	t.end()

	c.mu.Lock()
	defer c.mu.Unlock()
	c.analysed++
	// What was written to meanwhile must not be taken for known.
	if now, err := inodeOf(f); err != nil || now != id {
		c.forget(id)
		return
	}
	if c.inodes[id] == k && len(c.copies[like]) < maxAlike {
		k.like, k.trail = like, t
		c.copies[like] = append(c.copies[like], k)
	}
}

func inodeOf(f *os.File) (inode, error) {
	info, err := f.Stat()
	if err != nil {
		return inode{}, fmt.Errorf("stat: %w", err)
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return inode{}, errNotRegular
	}
	return inode{s.Dev, s.Ino, s.Size, s.Mtim, s.Ctim}, nil
}
