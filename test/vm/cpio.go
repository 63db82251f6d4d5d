package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// archive writes a cpio archive in the "newc" form, the one the kernel unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst). Several may
// follow each other in one initramfs; later entries win. Uncompressed: under
// emulation unpacking costs more than reading.
type archive struct {
	w       io.Writer
	written int64
	inode   int
	made    map[string]bool // directories already in this archive
}

func newArchive(w io.Writer) *archive { return &archive{w: w, made: map[string]bool{"/": true}} }

const (
	typeDir     = 0o040000
	typeFile    = 0o100000
	typeSymlink = 0o120000
	typeChar    = 0o020000
)

func (a *archive) write(p []byte) error {
	n, err := a.w.Write(p)
	a.written += int64(n)
	return err
}

// pad aligns to four bytes, as both names and contents must be.
func (a *archive) pad() error { return a.write(make([]byte, (4-a.written%4)%4)) }

func (a *archive) header(name string, mode uint32, size int64, major, minor uint32) error {
	if size > 1<<32-1 {
		return fmt.Errorf("%s: %d bytes do not fit in a cpio archive", name, size)
	}
	a.inode++
	name = strings.TrimPrefix(name, "/")
	// ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
	h := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0, name)
	if err := a.write([]byte(h)); err != nil {
		return err
	}
	return a.pad()
}

// parents makes the directories above name: the kernel makes none by itself.
func (a *archive) parents(name string) error {
	dir := path.Dir(path.Clean(name))
	if a.made[dir] || dir == "." {
		return nil
	}
	return a.dir(dir)
}

func (a *archive) dir(name string) error {
	name = path.Clean(name)
	if a.made[name] {
		return nil
	}
	if err := a.parents(name); err != nil {
		return err
	}
	a.made[name] = true
	return a.header(name, typeDir|0o755, 0, 0, 0)
}

func (a *archive) char(name string, mode, major, minor uint32) error {
	if err := a.parents(name); err != nil {
		return err
	}
	return a.header(name, typeChar|mode, 0, major, minor)
}

func (a *archive) symlink(name, target string) error {
	if err := a.parents(name); err != nil {
		return err
	}
	return a.content(name, typeSymlink|0o777, int64(len(target)), strings.NewReader(target))
}

func (a *archive) file(name string, mode fs.FileMode, text []byte) error {
	if err := a.parents(name); err != nil {
		return err
	}
	return a.content(name, typeFile|uint32(mode.Perm()), int64(len(text)), strings.NewReader(string(text)))
}

func (a *archive) content(name string, mode uint32, size int64, r io.Reader) error {
	if err := a.header(name, mode, size, 0, 0); err != nil {
		return err
	}
	n, err := io.CopyN(a.w, r, size)
	a.written += n
	if err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	return a.pad()
}

// tree packs the file or directory at host as guest.
func (a *archive) tree(host, guest string) error {
	return filepath.WalkDir(host, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(host, p)
		if err != nil {
			return err
		}
		name := path.Join("/", guest, filepath.ToSlash(rel))
		info, err := entry.Info()
		if p == host { // what the user names may be a link to what is meant
			info, err = os.Stat(host)
		}
		if err != nil {
			return err
		}
		switch {
		case info.IsDir():
			return a.dir(name)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			return a.symlink(name, target)
		case info.Mode().IsRegular():
			if err := a.parents(name); err != nil {
				return err
			}
			f, err := os.Open(p)
			if err != nil {
				return err
			}
			defer f.Close()
			return a.content(name, typeFile|uint32(info.Mode().Perm()), info.Size(), f)
		}
		return nil // sockets, devices: nothing a guest would want
	})
}

// close ends the archive, aligned so that another may follow.
func (a *archive) close() error {
	if err := a.header("TRAILER!!!", 0, 0, 0, 0); err != nil {
		return err
	}
	return a.write(make([]byte, (512-a.written%512)%512))
}

// writeFile makes path hold what fill packs, or nothing at all.
func writeArchive(path string, fill func(*archive) error) error {
	return replaceFile(path, func(f *os.File) error {
		a := newArchive(f)
		if err := fill(a); err != nil {
			return err
		}
		return a.close()
	})
}

// replaceFile writes beside path and renames: who reads path while another
// process writes it sees the old or the new, never half.
func replaceFile(path string, fill func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func sortedKeys[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
