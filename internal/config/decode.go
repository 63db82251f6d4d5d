package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value is a YAML node with what a message about it needs.
type value struct {
	node     *yaml.Node
	source   string // file, or name of the variable
	isEnv    bool
	path     string // "sampling.ratio", "targets[0].port"; empty: what source names
	problems *problems
}

func (p *problems) count() int { return len(p.list) }

func (v value) where() string {
	if v.isEnv && v.node.Line <= 1 {
		return v.source
	}
	return fmt.Sprintf("%s:%d", v.source, v.node.Line)
}

func (v value) fail(format string, args ...any) {
	where, key := v.where(), v.path
	if strings.HasPrefix(key, "[") { // an item of a variable that is a list
		where, key = where+key, ""
	}
	v.problems.add(&Error{Where: where, Key: key, Problem: fmt.Sprintf(format, args...)})
}

func (v value) want(what string) { v.fail("want %s, got %s", what, v.shown()) }

// shown is the node as a message quotes it.
func (v value) shown() string {
	switch v.node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	const most = 60
	text := v.node.Value
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return strconv.Quote(text)
}

func (v value) isNull() bool {
	return v.node.Kind == yaml.ScalarNode && v.node.ShortTag() == "!!null"
}

func (v value) child(node *yaml.Node, path string) value {
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	v.node, v.path = node, path
	return v
}

// scalar is the text of a scalar. Numbers and booleans are parsed from the text
// by who wants them, so that a quoted number and a variable read the same.
func (v value) scalar(want string) (string, bool) {
	if v.node.Kind != yaml.ScalarNode {
		v.want(want)
		return "", false
	}
	return v.node.Value, true
}

// items are the elements of a list; nil if it is none.
func (v value) items(want string) []value {
	if v.node.Kind != yaml.SequenceNode {
		v.want(want)
		return nil
	}
	items := make([]value, len(v.node.Content))
	for i, n := range v.node.Content {
		items[i] = v.child(n, fmt.Sprintf("%s[%d]", v.path, i))
	}
	return items
}

// pairs hands over each key and value of a mapping whose keys are the user's
// own. Keys given twice are mistakes.
func (v value) pairs(want string, visit func(name string, key, item value)) {
	if v.node.Kind != yaml.MappingNode {
		v.want(want)
		return
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		name := v.node.Content[i].Value
		if key, once := v.onlyOnce(v.node.Content[i], name, lines); once {
			item := v.child(v.node.Content[i+1], join(v.path, name))
			key.path = v.path
			visit(name, key, item.at(key.node.Line))
		}
	}
}

// onlyOnce is the key at node, for messages about it, and whether it is new;
// lines says where each key was.
func (v value) onlyOnce(node *yaml.Node, name string, lines map[string]int) (value, bool) {
	key := v.child(node, "")
	first, twice := lines[name]
	if twice {
		key.fail("key %q is set twice, first in line %d; remove one", join(v.path, name), first)
		return key, false
	}
	lines[name] = key.node.Line
	return key, true
}

// at points messages about a list or mapping, which starts on the line after its
// key, at the key.
func (v value) at(line int) value {
	if v.node.Kind != yaml.ScalarNode {
		moved := *v.node
		moved.Line = line
		v.node = &moved
	}
	return v
}

// mapping hands each value to the function of its key; keys without one, and
// keys given twice, are mistakes. Null values count as not set. It says whether
// the node is a mapping.
func (v value) mapping(fields map[string]func(value)) bool {
	if v.node.Kind != yaml.MappingNode {
		v.want("a mapping such as " + example(fields))
		return false
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		name := v.node.Content[i].Value
		key, once := v.onlyOnce(v.node.Content[i], name, lines)
		if !once {
			continue
		}
		set, known := fields[name]
		if !known {
			key.fail("unknown key %q; %s", join(v.path, name), suggestKey(v.path, name, fields))
			continue
		}
		field := v.child(v.node.Content[i+1], join(v.path, name)).at(key.node.Line)
		if !field.isNull() {
			set(field)
		}
	}
	return true
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func sorted(fields map[string]func(value)) []string {
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func example(fields map[string]func(value)) string { return "{" + sorted(fields)[0] + ": …}" }

// suggestKey names the key that was meant: one of this level, or one of the
// same name elsewhere.
func suggestKey(path, name string, fields map[string]func(value)) string {
	if n := nearest(name, sorted(fields)); n != "" {
		return fmt.Sprintf("did you mean %q?", join(path, n))
	}
	for _, k := range keys() {
		if last := k.path[strings.LastIndexByte(k.path, '.')+1:]; last == name {
			return fmt.Sprintf("did you mean %q?", k.path)
		}
	}
	return suggest(name, sorted(fields))
}

// yamlLine finds the line in the text of a YAML syntax error.
var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

// parseYAML gives the only document's root; nil if there is nothing in it.
func parseYAML(source string, data []byte, p *problems) *yaml.Node {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := decoder.Decode(&doc)
	if err == nil {
		if more := decoder.Decode(&second); !errors.Is(more, io.EOF) {
			if err = more; err == nil {
				p.add(&Error{Where: fmt.Sprintf("%s:%d", source, second.Line),
					Problem: "a second document begins here; keep one"})
				return nil
			}
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		where, text := source, err.Error()
		if m := yamlLine.FindStringSubmatch(text); m != nil {
			where, text = source+":"+m[1], text[len(m[0]):]
		}
		p.add(&Error{Where: where, Problem: "not YAML: " + strings.TrimPrefix(strings.ReplaceAll(text, "\n", " "), "yaml: ")})
		return nil
	case len(doc.Content) == 0:
		return nil
	}
	return doc.Content[0]
}

func decodeFile(cfg *Config, p *problems, name string, data []byte) {
	root := parseYAML(name, data, p)
	if root == nil {
		return
	}
	v := value{source: name, problems: p}.child(root, "")
	if !v.isNull() {
		decodeLevel(cfg, v)
	}
}

// decodeLevel walks the mapping at v.path: its fields are the keys below that
// path, either settings or further levels.
func decodeLevel(cfg *Config, v value) {
	fields := map[string]func(value){}
	for _, k := range keys() {
		rest, below := strings.CutPrefix(k.path, join(v.path, ""))
		if !below {
			continue
		}
		name, _, isLevel := strings.Cut(rest, ".")
		if isLevel {
			fields[name] = func(v value) { decodeLevel(cfg, v) }
		} else {
			fields[name] = func(v value) { k.set(cfg, v) }
		}
	}
	v.mapping(fields)
}
