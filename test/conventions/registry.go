// Package conventions holds spans to OpenTelemetry's semantic conventions: their
// attributes, requirement levels, names, kinds and statuses. Names, types and
// enumerations are those of the registry, read from the package that the OpenTelemetry
// project generates from it; the rest are the tables of docs/http/http-spans.md,
// docs/rpc/rpc-spans.md, docs/rpc/grpc.md and docs/general/recording-errors.md. It is
// for tests alone.
package conventions

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Registry is the attribute registry of one version.
type Registry struct {
	attributes map[string]*attribute
}

// attribute is an entry of the registry.
type attribute struct {
	kind   string          // string, int, boolean, Enum, string[], …
	values map[string]bool // of an Enum, its members
}

// schemaURL is how a version is named in OTLP.
const schemaURL = "https://opentelemetry.io/schemas/"

// Read reads the registry that a schema URL names.
func Read(ctx context.Context, schema string) (*Registry, error) {
	version, ok := strings.CutPrefix(schema, schemaURL)
	if !ok {
		return nil, fmt.Errorf("schema URL %q: want %sVERSION", schema, schemaURL)
	}
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "go.opentelemetry.io/otel").Output()
	if err != nil {
		return nil, fmt.Errorf("find the module go.opentelemetry.io/otel: %w", err)
	}
	dir := strings.TrimSpace(string(out))
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, "semconv", "v"+version, "attribute_group.go"),
		nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("read registry %s: %w", version, err)
	}
	return registryOf(file)
}

var typeLine = regexp.MustCompile(`(?m)^Type: (\S+)$`)

// registryOf collects the keys, which are constants with their type in the comment,
// and the members of enumerations, which are variables made of a key.
func registryOf(file *ast.File) (*Registry, error) {
	r := &Registry{attributes: map[string]*attribute{}}
	keys := map[string]*attribute{} // by the constant's name
	each(file, token.CONST, func(spec *ast.ValueSpec, call *ast.CallExpr, name string) {
		if kind := typeLine.FindStringSubmatch(spec.Doc.Text()); kind != nil && selected(call.Fun) == "attribute.Key" {
			a := &attribute{kind: kind[1], values: map[string]bool{}}
			keys[spec.Names[0].Name], r.attributes[name] = a, a
		}
	})
	each(file, token.VAR, func(_ *ast.ValueSpec, call *ast.CallExpr, value string) {
		key, method, _ := strings.Cut(selected(call.Fun), ".")
		if a := keys[key]; a != nil && method == "String" {
			a.values[value] = true
		}
	})
	if len(r.attributes) < 500 {
		return nil, fmt.Errorf("read registry: %d attributes found, which is not all of them", len(r.attributes))
	}
	return r, nil
}

// each calls f for every declaration of one name that is a call with one text.
func each(file *ast.File, kind token.Token, f func(spec *ast.ValueSpec, call *ast.CallExpr, text string)) {
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != kind {
			continue
		}
		for _, s := range g.Specs {
			spec := s.(*ast.ValueSpec)
			if len(spec.Names) != 1 || len(spec.Values) != 1 {
				continue
			}
			call, ok := spec.Values[0].(*ast.CallExpr)
			if !ok || len(call.Args) != 1 {
				continue
			}
			if literal, ok := call.Args[0].(*ast.BasicLit); ok && literal.Kind == token.STRING {
				if text, err := strconv.Unquote(literal.Value); err == nil {
					f(spec, call, text)
				}
			}
		}
	}
}

// selected is the text of a.b, "" for anything else.
func selected(e ast.Expr) string {
	if s, ok := e.(*ast.SelectorExpr); ok {
		if x, ok := s.X.(*ast.Ident); ok {
			return x.Name + "." + s.Sel.Name
		}
	}
	return ""
}
