// Package pgo makes profiles by which the compiler inlines the calls that a test wants
// to have inlined.
package pgo

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// HotServe is the call of every handler of HTTP/1.
var HotServe = Hot{"net/http/server.go", "serve", "ServeHTTP", "net/http.(*conn).serve", "net/http.serverHandler.ServeHTTP"}

// Hot is a call in the standard library that a profile names.
type Hot struct {
	File         string // such as net/http/server.go
	Caller, Call string // the method that calls, and the one that is called
	Into, Callee string // both, as the linker names them
}

// lines are where a function begins, and where the call in it is.
func (h Hot) lines(goroot string) (start, call int64, err error) {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, filepath.Join(goroot, "src", h.File), nil, 0)
	if err != nil {
		return 0, 0, err
	}
	receiver := strings.Trim(strings.Split(h.Into, ".")[1], "(*)")
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Name.Name != h.Caller || fn.Recv == nil {
			continue
		}
		if star, ok := fn.Recv.List[0].Type.(*ast.StarExpr); !ok || star.X.(*ast.Ident).Name != receiver {
			continue
		}
		start = int64(set.Position(fn.Pos()).Line)
		ast.Inspect(fn, func(n ast.Node) bool {
			c, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if s, ok := c.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == h.Call {
				call = int64(set.Position(c.Pos()).Line)
			}
			return true
		})
	}
	if start == 0 || call == 0 {
		return 0, 0, fmt.Errorf("%s does not call %s in %s", h.Caller, h.Call, h.File)
	}
	return start, call, nil
}

// Profile is one of CPU time, as `go build -pgo` reads it, in which all of it goes by
// these calls, in the sources of the Go at goroot.
func Profile(goroot string, calls ...Hot) ([]byte, error) {
	text := []string{"", "cpu", "nanoseconds"}
	str := func(s string) uint64 {
		if i := slices.Index(text, s); i >= 0 {
			return uint64(i)
		}
		text = append(text, s)
		return uint64(len(text) - 1)
	}
	var out []byte
	message := func(field protowire.Number, pairs ...uint64) {
		var m []byte
		for i := 0; i < len(pairs); i += 2 {
			m = protowire.AppendTag(m, protowire.Number(pairs[i]), protowire.VarintType)
			m = protowire.AppendVarint(m, pairs[i+1])
		}
		out = protowire.AppendTag(out, field, protowire.BytesType)
		out = protowire.AppendBytes(out, m)
	}
	const sampleType, sample, location, function, stringTable, periodType, period = 1, 2, 4, 5, 6, 11, 12
	message(sampleType, 1, str("cpu"), 2, str("nanoseconds"))
	for i, h := range calls {
		start, call, err := h.lines(goroot)
		if err != nil {
			return nil, err
		}
		callee, caller := uint64(2*i+1), uint64(2*i+2)
		message(sample, 1, callee, 1, caller, 2, 1_000_000_000)
		for _, of := range []struct {
			id    uint64
			name  string
			start int64
			line  int64
		}{{callee, h.Callee, 1, 1}, {caller, h.Into, start, call}} {
			var line []byte
			line = protowire.AppendTag(line, 1, protowire.VarintType)
			line = protowire.AppendVarint(line, of.id)
			line = protowire.AppendTag(line, 2, protowire.VarintType)
			line = protowire.AppendVarint(line, uint64(of.line))
			var m []byte
			m = protowire.AppendTag(m, 1, protowire.VarintType)
			m = protowire.AppendVarint(m, of.id)
			m = protowire.AppendTag(m, 4, protowire.BytesType)
			m = protowire.AppendBytes(m, line)
			out = protowire.AppendTag(out, location, protowire.BytesType)
			out = protowire.AppendBytes(out, m)
			message(function, 1, of.id, 2, str(of.name), 3, str(of.name), 4, str(h.File), 5, uint64(of.start))
		}
	}
	for _, s := range text {
		out = protowire.AppendTag(out, stringTable, protowire.BytesType)
		out = protowire.AppendString(out, s)
	}
	message(periodType, 1, 1, 2, 2)
	out = protowire.AppendTag(out, period, protowire.VarintType)
	out = protowire.AppendVarint(out, 10_000_000)
	return out, nil
}
