package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// defaultPackages are the programs the end-to-end tests run, and a shell.
var defaultPackages = []string{
	"curl", "dash", "coreutils", "procps", "iproute2",
	"nginx", "python3", "python3-flask", "python3-requests", "gunicorn", "nodejs", "node-express",
}

// userlandFormat changes when the same packages would be packed differently.
const userlandFormat = "3"

// userland is a set of Debian packages, ready to boot with.
type userland struct {
	usr  string // ext4 image of /usr
	rest string // cpio archive of everything else, to go into the initramfs
}

// buildUserland makes a userland of Debian packages and all they depend on,
// straight from the mirror: the same on every host, whatever is installed there.
// It is cached by the packages' names and versions. Maintainer scripts are not
// run; what the tests need of them is done here.
func buildUserland(ctx context.Context, cache string, packages []string, refresh bool, log func(string, ...any)) (*userland, error) {
	dir := filepath.Join(cache, "userland")
	source := newApt(filepath.Join(cache, "apt", "userland"),
		[]suite{{"debian", "bookworm"}, {"debian-security", "bookworm-security"}}, log)
	if err := source.refresh(ctx, refresh); err != nil {
		return nil, err
	}
	all, err := source.closure(ctx, packages)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b debianPackage) int { return strings.Compare(a.name, b.name) })
	key := sha256.New()
	fmt.Fprintln(key, userlandFormat)
	for _, p := range all {
		fmt.Fprintln(key, p.name, p.version)
	}
	base := filepath.Join(dir, fmt.Sprintf("%x", key.Sum(nil)[:8]))
	u := &userland{usr: base + ".ext4", rest: base + ".cpio"}
	if _, err := os.Stat(u.rest); err == nil { // it is written last
		return u, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(dir, ".build-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	log("downloading %d Debian packages", len(all))
	debs, err := source.download(ctx, filepath.Join(work, "debs"), all)
	if err != nil {
		return nil, err
	}
	root := filepath.Join(work, "root")
	if err := mergedUsr(root); err != nil {
		return nil, err
	}
	log("unpacking %d Debian packages", len(debs))
	for _, deb := range debs {
		if err := unpackDeb(ctx, deb, root); err != nil {
			return nil, err
		}
	}
	if err := prune(root); err != nil {
		return nil, err
	}
	if err := compilePython(ctx, root, log); err != nil {
		return nil, err
	}
	usr := filepath.Join(root, "usr")
	size, err := makeImage(ctx, usr, u.usr)
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(usr); err != nil {
		return nil, err
	}
	if err := writeArchive(u.rest, func(a *archive) error { return a.tree(root, "/") }); err != nil {
		return nil, err
	}
	log("userland: %d packages, %d MB", len(debs), size>>20)
	return u, nil
}

// makeImage packs a directory into an ext4 image, the one file system for disks
// that is built into all of Debian's cloud kernels.
func makeImage(ctx context.Context, dir, file string) (int64, error) {
	const block = 4096
	var blocks, inodes int64
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		inodes++
		blocks += (info.Size() + block - 1) / block
		return nil
	})
	if err != nil {
		return 0, err
	}
	inodes += 64
	size := (blocks + inodes/8 + 4096) * block // inode tables, extents and bitmaps besides the contents
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		mkfs = "/sbin/mkfs.ext4" // not in the PATH of everyone
	}
	err = replaceFile(file, func(f *os.File) error {
		if err := f.Truncate(size); err != nil {
			return err
		}
		// No journal and no checksums: the image is only ever read.
		_, err := output(exec.CommandContext(ctx, mkfs, "-q", "-F", "-b", fmt.Sprint(block), "-m", "0", "-N", fmt.Sprint(inodes),
			"-O", "^has_journal,^metadata_csum,^resize_inode", "-d", dir, f.Name()))
		return err
	})
	return size, err
}

// mergedUsr lays out /bin, /lib and so on as links into /usr, as an installed
// Debian has them; packages of that time still name both.
func mergedUsr(root string) error {
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.MkdirAll(filepath.Join(root, "usr", d), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("usr/"+d, filepath.Join(root, d)); err != nil {
			return err
		}
	}
	// Made by dash's and nginx's scripts on a real system.
	if err := os.Symlink("dash", filepath.Join(root, "usr/bin/sh")); err != nil {
		return err
	}
	for _, d := range []string{"var/log/nginx", "var/lib/nginx/body", "var/tmp", "root"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// prune removes what no test reads.
func prune(root string) error {
	for _, pattern := range []string{
		"usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bash-completion",
		"usr/share/i18n", "usr/share/perl", "usr/share/perl5", "usr/lib/*/perl*", "usr/bin/perl*", "usr/lib/*/gconv",
		"usr/share/icons", "usr/share/javascript", "usr/share/zoneinfo", "usr/include", "usr/lib/systemd", "usr/share/nodejs/*/test",
		"usr/lib/python3*/test", "usr/lib/python3*/idlelib", "usr/lib/python3*/ensurepip", "usr/lib/python3*/lib2to3",
		"usr/share/fonts", "usr/share/terminfo", "usr/lib/*/libperl*", "usr/share/nodejs/typescript", "usr/share/nodejs/@types",
		// What node-express recommends for its own tests, and brings along.
		"usr/share/nodejs/@babel", "usr/share/nodejs/caniuse-lite", "usr/share/nodejs/core-js*", "usr/share/nodejs/lodash*",
		"usr/share/nodejs/handlebars", "usr/share/nodejs/es-abstract", "usr/share/nodejs/regenerate-unicode-properties",
	} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, p := range paths {
			if err := os.RemoveAll(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// compilePython makes .pyc files, as python3's scripts would: importing flask
// from source takes most of a minute under emulation. The packed interpreter is
// run by its own loader, so that the host needs no Python and no root. Hash-based
// files, because the kernel may drop time stamps when it unpacks.
func compilePython(ctx context.Context, root string, log func(string, ...any)) error {
	interpreters, err := filepath.Glob(filepath.Join(root, "usr/bin/python3.[0-9]*"))
	if err != nil || len(interpreters) == 0 {
		return err
	}
	version := strings.TrimPrefix(filepath.Base(interpreters[0]), "python")
	log("compiling Python %s modules", version)
	libs := filepath.Join(root, "usr/lib/x86_64-linux-gnu")
	for _, dir := range []string{"usr/lib/python" + version, "usr/lib/python3/dist-packages"} {
		path := filepath.Join(root, dir)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		cmd := exec.CommandContext(ctx, filepath.Join(libs, "ld-linux-x86-64.so.2"), "--library-path", libs,
			interpreters[0], "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash",
			"-s", root, "-p", "/", path)
		cmd.Env = []string{"PYTHONHOME=" + filepath.Join(root, "usr"), "LC_ALL=C.UTF-8"}
		if _, err := output(cmd); err != nil {
			return fmt.Errorf("compile Python modules in %s: %w", dir, err)
		}
	}
	return nil
}

// baseFiles are the bits of /etc that programs read on any system.
func baseFiles(a *archive) error {
	for _, d := range []string{"/proc", "/sys", "/dev", "/tmp", "/run", "/root", "/usr", "/var/log", "/var/tmp"} {
		if err := a.dir(d); err != nil {
			return err
		}
	}
	// The kernel opens these before init can mount anything.
	if err := a.char("/dev/console", 0o600, 5, 1); err != nil {
		return err
	}
	if err := a.char("/dev/null", 0o666, 1, 3); err != nil {
		return err
	}
	files := map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n" +
			"nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
		"/etc/group":         "root:x:0:\nadm:x:4:\nwww-data:x:33:\nnogroup:x:65534:\n",
		"/etc/hosts":         "127.0.0.1 localhost weft-vm\n::1 localhost\n",
		"/etc/hostname":      "weft-vm\n",
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
		"/etc/resolv.conf":   "",
	}
	for _, name := range sortedKeys(files) {
		if err := a.file(name, fs.FileMode(0o644), []byte(files[name])); err != nil {
			return err
		}
	}
	return nil
}
