package config

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// errorLines are files, each with a mistake, and the line that a user is shown,
// whole: the words are part of the contract.
func errorLines() []struct{ text, want string } {
	return []struct{ text, want string }{
		// keys
		{"log: {level: info}\n\npropogation: {}\n", `weft.yaml:3: unknown key "propogation"; did you mean "propagation"?`},
		{"sampling:\n  ratoi: 1\n", `weft.yaml:2: unknown key "sampling.ratoi"; did you mean "sampling.ratio"?`},
		{"ratio: 1\n", `weft.yaml:1: unknown key "ratio"; did you mean "sampling.ratio"?`},
		{"export:\n  otlp:\n    endpiont: x\n", `weft.yaml:3: unknown key "export.otlp.endpiont"; did you mean "export.otlp.endpoint"?`},
		{"targets:\n  - exe: a\n    prot: 80\n", `weft.yaml:3: unknown key "targets[0].prot"; did you mean "targets[0].port"?`},
		{"log: {zzzzzzzz: 1}\n", `weft.yaml:1: unknown key "log.zzzzzzzz"; known here: format, level`},
		{"log: {level: info}\nlog: {level: warn}\n", `weft.yaml:2: key "log" is set twice, first in line 1; remove one`},
		// shapes
		{"a: [\n", "weft.yaml:1: not YAML: did not find expected node content"},
		{"log: {}\n---\nlog: {}\n", "weft.yaml:2: a second document begins here; keep one"},
		{"- a\n", "weft.yaml:1: want a mapping such as {agent: …}, got a list"},
		{"log: loud\n", `weft.yaml:1: log: want a mapping such as {format: …}, got "loud"`},
		{"log:\n  level: [info]\n", "weft.yaml:2: log.level: want one of debug, info, warn, error, got a list"},
		{"targets: {exe: a}\n", `weft.yaml:1: targets: want a list such as [{exe: "/usr/bin/python3*"}], got a mapping`},
		{"targets: [a]\n", `weft.yaml:1: targets[0]: want a mapping such as {args: …}, got "a"`},
		{"propagation:\n  inject: traceparent\n", `weft.yaml:2: propagation.inject: want a list such as [traceparent], got "traceparent"`},
		// values
		{"capture: xdp\n", `weft.yaml:1: capture: want one of fentry, kprobe, tracepoint, got "xdp"`},
		{"propagation: {inject: [tracepaernt]}\n", `weft.yaml:1: propagation.inject[0]: want one of traceparent, tracestate, baggage (traceparent?), got "tracepaernt"`},
		{"propagation: {inject: [baggage, baggage]}\n", `weft.yaml:1: propagation.inject[1]: "baggage" is listed twice`},
		{"sampling:\n  head: parentbased_alwayson\n", `weft.yaml:2: sampling.head: want one of always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off, parentbased_traceidratio (parentbased_always_on?), got "parentbased_alwayson"`},
		{"log: {}\n\n\n\n\nsampling:\n  ratio: lots\n", `weft.yaml:7: sampling.ratio: want a number between 0 and 1, got "lots"`},
		{"sampling: {ratio: 1.5}\n", `weft.yaml:1: sampling.ratio: want a number between 0 and 1, got "1.5"`},
		{"sampling: {ratio: NaN}\n", `weft.yaml:1: sampling.ratio: want a number between 0 and 1, got "NaN"`},
		{"export: {otlp: {endpoint: \"ftp://x\"}}\n", `weft.yaml:1: export.otlp.endpoint: want an http:// or https:// URL, or host:port, got "ftp://x"`},
		{"export: {otlp: {endpoint: collector}}\n", `weft.yaml:1: export.otlp.endpoint: want an http:// or https:// URL, or host:port, got "collector"`},
		{"export: {otlp: {protocol: http}}\n", `weft.yaml:1: export.otlp.protocol: want one of grpc, http/protobuf, got "http"`},
		{"agent: {background: perhaps}\n", `weft.yaml:1: agent.background: want true or false, got "perhaps"`},
		{"telemetry: {listen: 9464}\n", `weft.yaml:1: telemetry.listen: want host:port such as "127.0.0.1:9464", or "off", got "9464"`},
		{"telemetry: {listen: \"localhost:70000\"}\n", `weft.yaml:1: telemetry.listen: want host:port such as "127.0.0.1:9464", or "off", got "localhost:70000"`},
		{"telemetry: {bpf_stats: 1}\n", `weft.yaml:1: telemetry.bpf_stats: want true or false, got "1"`},
		{"log: {level: warning}\n", `weft.yaml:1: log.level: want one of debug, info, warn, error (warn?), got "warning"`},
		{"log: {format: xml}\n", `weft.yaml:1: log.format: want one of text, json, got "xml"`},
		// targets
		{"targets:\n  - exe: a\n  - name: b\n", "weft.yaml:3: targets[1]: no selector; add one of exe, args, port, pid, cgroup, k8s"},
		{"targets:\n  - exclude: true\n", "weft.yaml:2: targets[0]: no selector; add one of exe, args, port, pid, cgroup, k8s"},
		{"targets: [{exe: \"\"}]\n", "weft.yaml:1: targets[0].exe: empty pattern matches nothing; leave the key out to match everything"},
		{"targets: [{args: \"a[b\"}]\n", `weft.yaml:1: targets[0].args: no ']' closes "[b"; write '\[' for a bracket`},
		{"targets: [{args: \"[z-a]\"}]\n", "weft.yaml:1: targets[0].args: range z-a in a set runs backwards"},
		{"targets: [{cgroup: 'a\\'}]\n", `weft.yaml:1: targets[0].cgroup: pattern ends in '\'; write '\\' for a backslash`},
		{"targets: [{port: http}]\n", `weft.yaml:1: targets[0].port: want ports 1 to 65535 such as "8080,9000-9010", got "http"`},
		{"targets: [{port: \"80,\"}]\n", `weft.yaml:1: targets[0].port: want ports 1 to 65535 such as "8080,9000-9010", got "80,"`},
		{"targets: [{port: 0}]\n", `weft.yaml:1: targets[0].port: want ports 1 to 65535 such as "8080,9000-9010", got "0"`},
		{"targets: [{port: 65536}]\n", `weft.yaml:1: targets[0].port: want ports 1 to 65535 such as "8080,9000-9010", got "65536"`},
		{"targets: [{port: 90-80}]\n", `weft.yaml:1: targets[0].port: range 90-80 runs backwards, got "90-80"`},
		{"targets: [{pid: 0}]\n", `weft.yaml:1: targets[0].pid: want a process id, 1 to 4194304, got "0"`},
		{"targets: [{pid: self}]\n", `weft.yaml:1: targets[0].pid: want a process id, 1 to 4194304, got "self"`},
		{"targets: [{exe: a, exclude: yes}]\n", `weft.yaml:1: targets[0].exclude: want true or false, got "yes"`},
		{"targets: [{exe: a, name: \"\"}]\n", "weft.yaml:1: targets[0].name: empty name; leave the key out to take the name from the process"},
		// propagation
		{"propagation: {inject: [tracestate]}\n", `weft.yaml:1: propagation.inject: tracestate without traceparent is read by nobody; add traceparent`},
		{"propagation: {trust: 10.0.0.0/8}\n", `weft.yaml:1: propagation.trust: want a list of networks such as ["10.0.0.0/8"], got "10.0.0.0/8"`},
		{"propagation: {trust: [home]}\n", `weft.yaml:1: propagation.trust[0]: want a network such as "10.0.0.0/8", got "home"`},
		{"propagation: {trust: [\"fe80::1%eth0\"]}\n", `weft.yaml:1: propagation.trust[0]: want a network such as "10.0.0.0/8", got "fe80::1%eth0"`},
		{"propagation: {trust: [\"10.0.0.0/33\"]}\n", `weft.yaml:1: propagation.trust[0]: want a network such as "10.0.0.0/8", got "10.0.0.0/33"`},
		{"propagation: {trust: [10.1.2.3]}\n", `weft.yaml:1: propagation.trust[0]: 10.1.2.3 is an address; did you mean 10.1.2.3/32?`},
		{"propagation: {trust: [\"10.1.0.0/8\"]}\n", `weft.yaml:1: propagation.trust[0]: 10.1.0.0/8 has bits beyond its mask; did you mean 10.0.0.0/8?`},
		{"propagation: {trust: [\"10.0.0.0/8\", \"::ffff:10.0.0.0/104\"]}\n", `weft.yaml:1: propagation.trust[1]: 10.0.0.0/8 is listed twice`},
		{"propagation:\n  trust: [" + networks(257) + "]\n", `weft.yaml:2: propagation.trust: 257 networks, at most 256; join neighbours into larger networks`},
		{"propagation: {egress: all}\n", `weft.yaml:1: propagation.egress: want a list such as [{cidr: "10.0.0.0/8"}], got "all"`},
		{"propagation: {egress: [10.0.0.0/8]}\n", `weft.yaml:1: propagation.egress[0]: want a mapping such as {baggage_keys: …}, got "10.0.0.0/8"`},
		{"propagation: {egress: [{inject: []}]}\n", `weft.yaml:1: propagation.egress[0]: no cidr; add one such as cidr: "0.0.0.0/0"`},
		{"propagation: {egress: [{cdir: \"10.0.0.0/8\"}]}\n", `weft.yaml:1: unknown key "propagation.egress[0].cdir"; did you mean "propagation.egress[0].cidr"?`},
		{"propagation: {egress: [{cidr: \"::1/129\"}]}\n", `weft.yaml:1: propagation.egress[0].cidr: want a network such as "10.0.0.0/8", got "::1/129"`},
		{"propagation: {egress: [{cidr: \"::/0\", inject: [all]}]}\n", `weft.yaml:1: propagation.egress[0].inject[0]: want one of traceparent, tracestate, baggage, got "all"`},
		{"propagation: {egress: [{cidr: \"::/0\", inject: [tracestate, baggage]}]}\n", `weft.yaml:1: propagation.egress[0].inject: tracestate without traceparent is read by nobody; add traceparent`},
		{"propagation: {egress: [{cidr: \"::/0\", ports: https}]}\n", `weft.yaml:1: propagation.egress[0].ports: want ports 1 to 65535 such as "8080,9000-9010", got "https"`},
		{"propagation: {egress: [{cidr: \"::/0\", ports: \"1,3,5,7,9\"}]}\n", `weft.yaml:1: propagation.egress[0].ports: 5 port ranges, at most 4; write a second rule for the others`},
		{"propagation: {egress: [{cidr: \"::/0\", baggage_keys: tenant_id}]}\n", `weft.yaml:1: propagation.egress[0].baggage_keys: want a list of keys such as [tenant_id], got "tenant_id"`},
		{"propagation: {egress: [{cidr: \"::/0\", baggage_keys: []}]}\n", `weft.yaml:1: propagation.egress[0].baggage_keys: no keys; leave it out to let all of them leave, or leave baggage out of inject to let none`},
		{"propagation: {egress: [{cidr: \"::/0\", baggage_keys: [\"a b\"]}]}\n", `weft.yaml:1: propagation.egress[0].baggage_keys[0]: "a b" is not a baggage key: use letters, digits and !#$%&'*+-.^_` + "`|~"},
		{"propagation: {egress: [{cidr: \"::/0\", baggage_keys: [a, a]}]}\n", `weft.yaml:1: propagation.egress[0].baggage_keys[1]: "a" is listed twice`},
		{"propagation: {egress: [{cidr: \"::/0\", baggage_keys: [[a]]}]}\n", `weft.yaml:1: propagation.egress[0].baggage_keys[0]: want a key, got a list`},
		{"propagation: {egress: [{cidr: \"::/0\", baggage_keys: [" + keyList(17) + "]}]}\n", `weft.yaml:1: propagation.egress[0].baggage_keys: 17 keys, at most 16`},
		{"propagation:\n  egress:\n    - {cidr: \"10.0.0.0/8\"}\n    - {cidr: \"10.1.0.0/16\"}\n", `weft.yaml:4: propagation.egress[1]: 10.1.0.0/16 never matches: propagation.egress[0] (10.0.0.0/8) comes first and covers it; move this entry before that one, or remove it`},
		{"propagation:\n  egress:\n    - {cidr: \"::ffff:0.0.0.0/96\"}\n    - {cidr: \"10.0.0.0/8\", ports: 443}\n", `weft.yaml:4: propagation.egress[1]: 10.0.0.0/8 port 443 never matches: propagation.egress[0] (0.0.0.0/0) comes first and covers it; move this entry before that one, or remove it`},
		{"propagation:\n  egress:\n    - {cidr: \"::/0\", ports: \"440-449,1-439\"}\n    - {cidr: \"fd00::/8\", ports: \"430-443\"}\n", `weft.yaml:4: propagation.egress[1]: fd00::/8 port 430-443 never matches: propagation.egress[0] (::/0 port 440-449,1-439) comes first and covers it; move this entry before that one, or remove it`},
		{"propagation: {egress: [" + rules(54) + "]}\n", `weft.yaml:1: propagation.egress: 65 rules, 11 of them default ones, at most 64; join neighbours into larger networks`},
		{"propagation:\n  inject: [traceparent]\n  egress:\n    - {cidr: \"::/0\", inject: [traceparent, baggage]}\n", `weft.yaml:4: propagation.egress[0].inject: baggage is not in propagation.inject; add it there, or remove it here`},
		{"propagation:\n  egress:\n    - {cidr: \"::/0\", inject: [traceparent], baggage_keys: [a]}\n", `weft.yaml:3: propagation.egress[0].baggage_keys: baggage does not leave here; add it to inject, or remove baggage_keys`},
		{"propagation:\n  inject: [traceparent]\n  egress:\n    - {cidr: \"::/0\", baggage_keys: [a]}\n", `weft.yaml:4: propagation.egress[0].baggage_keys: baggage does not leave here; add it to inject, or remove baggage_keys`},
		// baggage
		{"baggage: {attributes: user_id}\n", `weft.yaml:1: baggage.attributes: want a list of keys such as [user_id], got "user_id"`},
		{"baggage: {attributes: [user id]}\n", `weft.yaml:1: baggage.attributes[0]: "user id" is not a baggage key: use letters, digits and !#$%&'*+-.^_` + "`|~"},
		{"baggage: {attributes: [\"\"]}\n", `weft.yaml:1: baggage.attributes[0]: "" is not a baggage key: use letters, digits and !#$%&'*+-.^_` + "`|~"},
		{"baggage: {attributes: [user_id, user_id]}\n", `weft.yaml:1: baggage.attributes[1]: "user_id" is listed twice`},
		{"baggage: {attributes: [" + keyList(17) + "]}\n", `weft.yaml:1: baggage.attributes: 17 keys, at most 16`},
		{"baggage: {set: [user_id]}\n", `weft.yaml:1: baggage.set: want a mapping such as {user_id: {header: X-User-Id}}, got a list`},
		{"baggage: {set: {user_id: X-User-Id}}\n", `weft.yaml:1: baggage.set.user_id: want a mapping such as {header: …}, got "X-User-Id"`},
		{"baggage: {set: {user_id: {}}}\n", `weft.yaml:1: baggage.set.user_id: no header; add one such as {header: X-User-Id}`},
		{"baggage: {set: {user_id: {haeder: X}}}\n", `weft.yaml:1: unknown key "baggage.set.user_id.haeder"; did you mean "baggage.set.user_id.header"?`},
		{"baggage: {set: {user_id: {header: X}, user_id: {header: Y}}}\n", `weft.yaml:1: key "baggage.set.user_id" is set twice, first in line 1; remove one`},
		{"baggage:\n  set:\n    user_id: {header: X-User-Id}\n    uid: {header: x-user-id}\n", `weft.yaml:4: baggage.set.uid: header "x-user-id" is already the source of "user_id"; remove one`},
		{"baggage: {set: {user=id: {header: X}}}\n", `weft.yaml:1: baggage.set: "user=id" is not a baggage key: use letters, digits and !#$%&'*+-.^_` + "`|~"},
		{"baggage: {set: {" + strings.Repeat("k", 65) + ": {header: X}}}\n", `weft.yaml:1: baggage.set: key "` + strings.Repeat("k", 60) + `…" has 65 characters, at most 64`},
		{"baggage: {set: {user_id: {header: \"X-User-Id:\"}}}\n", `weft.yaml:1: baggage.set.user_id.header: want a header name such as X-User-Id, got "X-User-Id:"`},
		{"baggage: {set: {user_id: {header: [X]}}}\n", `weft.yaml:1: baggage.set.user_id.header: want a header name such as X-User-Id, got a list`},
		{"baggage: {set: {user_id: {header: X-" + strings.Repeat("h", 39) + "}}}\n", `weft.yaml:1: baggage.set.user_id.header: header "X-` + strings.Repeat("h", 39) + `" has 41 characters, at most 40`},
		{"baggage: {set: {user_id: {header: Traceparent}}}\n", `weft.yaml:1: baggage.set.user_id.header: header "traceparent" is one that weft reads itself; choose another`},
		{"baggage: {set: {user_id: {header: Authorization}}}\n", `weft.yaml:1: baggage.set.user_id.header: header "authorization" carries credentials, and baggage goes to every service behind; choose another`},
		{"baggage: {set: {" + setList(9) + "}}\n", `weft.yaml:1: baggage.set: 9 keys, at most 8`},
		// sampling
		{"sampling: {ratio: 1e-17}\n", `weft.yaml:1: sampling.ratio: 1e-17 is too small to keep anything; write 0, or 1e-16 or more`},
		{"sampling: {max_per_second: -1}\n", `weft.yaml:1: sampling.max_per_second: want a number from 1 to 1000000, or 0 for no bound, got "-1"`},
		{"sampling: {max_per_second: 0.5}\n", `weft.yaml:1: sampling.max_per_second: want a number from 1 to 1000000, or 0 for no bound, got "0.5"`},
		{"sampling: {max_per_second: NaN}\n", `weft.yaml:1: sampling.max_per_second: want a number from 1 to 1000000, or 0 for no bound, got "NaN"`},
		{"sampling: {health_checks: true}\n", `weft.yaml:1: sampling.health_checks: want one of drop, keep, got "true"`},
		{"sampling: {rules: {path: /}}\n", `weft.yaml:1: sampling.rules: want a list such as [{path: /static/, ratio: 0.01}], got a mapping`},
		{"sampling: {rules: [cart]}\n", `weft.yaml:1: sampling.rules[0]: want a mapping such as {method: …}, got "cart"`},
		{"sampling: {rules: [{ratio: 1}]}\n", `weft.yaml:1: sampling.rules[0]: no selector; add one of service, method, path`},
		{"sampling:\n  rules:\n    - {path: /}\n", `weft.yaml:3: sampling.rules[0]: no ratio; add one, 0 (none) to 1 (all)`},
		{"sampling: {rules: [{path: /, ratio: 2}]}\n", `weft.yaml:1: sampling.rules[0].ratio: want a number between 0 and 1, got "2"`},
		{"sampling: {rules: [{path: /, raito: 0}]}\n", `weft.yaml:1: unknown key "sampling.rules[0].raito"; did you mean "sampling.rules[0].ratio"?`},
		{"sampling: {rules: [{service: \"[\", ratio: 0}]}\n", `weft.yaml:1: sampling.rules[0].service: no ']' closes "["; write '\[' for a bracket`},
		{"sampling: {rules: [{method: get, ratio: 0}]}\n", `weft.yaml:1: sampling.rules[0].method: want a method in upper case, at most 16 characters, such as GET, got "get"`},
		{"sampling: {rules: [{method: \"\", ratio: 0}]}\n", `weft.yaml:1: sampling.rules[0].method: want a method in upper case, at most 16 characters, such as GET, got ""`},
		{"sampling: {rules: [{method: ABCDEFGHIJKLMNOPQ, ratio: 0}]}\n", `weft.yaml:1: sampling.rules[0].method: want a method in upper case, at most 16 characters, such as GET, got "ABCDEFGHIJKLMNOPQ"`},
		{"sampling: {rules: [{path: static, ratio: 0}]}\n", `weft.yaml:1: sampling.rules[0].path: want the beginning of a path, at most 64 bytes, such as /static/, got "static"`},
		{"sampling: {rules: [{path: \"/a b\", ratio: 0}]}\n", `weft.yaml:1: sampling.rules[0].path: want the beginning of a path, at most 64 bytes, such as /static/, got "/a b"`},
		{"sampling: {rules: [{path: /" + strings.Repeat("a", 64) + ", ratio: 0}]}\n", `weft.yaml:1: sampling.rules[0].path: want the beginning of a path, at most 64 bytes, such as /static/, got "/` + strings.Repeat("a", 59) + `…"`},
		{"sampling: {rules: [{path: /static/*, ratio: 0}]}\n", `weft.yaml:1: sampling.rules[0].path: "/static/*" is compared as it stands, as the beginning of the path; leave the * out`},
		{"sampling: {rules: [" + strings.Repeat("{path: /, ratio: 0},", 16) + "]}\n", `weft.yaml:1: sampling.rules: 16 rules, at most 15`},
		{"sampling: {tail: true}\n", `weft.yaml:1: sampling.tail: want a mapping such as {errors: …}, got "true"`},
		{"sampling:\n  tail:\n    keep: errors\n", `weft.yaml:3: unknown key "sampling.tail.keep"; known here: errors, max_spans, rare_per_minute, ratio, slower_quantile, slower_than, wait`},
		{"sampling: {tail: {errors: all}}\n", `weft.yaml:1: sampling.tail.errors: want true or false, got "all"`},
		{"sampling: {tail: {slower_than: 500}}\n", `weft.yaml:1: sampling.tail.slower_than: want a duration up to 1h such as 500ms, or 0 for off, got "500"`},
		{"sampling: {tail: {slower_than: -1s}}\n", `weft.yaml:1: sampling.tail.slower_than: want a duration up to 1h such as 500ms, or 0 for off, got "-1s"`},
		{"sampling: {tail: {slower_quantile: 99}}\n", `weft.yaml:1: sampling.tail.slower_quantile: want a number below 1 such as 0.99, or 0 for off, got "99"`},
		{"sampling: {tail: {slower_quantile: 1}}\n", `weft.yaml:1: sampling.tail.slower_quantile: want a number below 1 such as 0.99, or 0 for off, got "1"`},
		{"sampling: {tail: {rare_per_minute: 0.5}}\n", `weft.yaml:1: sampling.tail.rare_per_minute: want a whole number from 1 to 1000000, or 0 for off, got "0.5"`},
		{"sampling: {tail: {ratio: 10%}}\n", `weft.yaml:1: sampling.tail.ratio: want a number between 0 and 1, got "10%"`},
		{"sampling: {tail: {wait: 99ms}}\n", `weft.yaml:1: sampling.tail.wait: want a duration from 100ms to 60s such as 5s, got "99ms"`},
		{"sampling: {tail: {wait: 61s}}\n", `weft.yaml:1: sampling.tail.wait: want a duration from 100ms to 60s such as 5s, got "61s"`},
		{"sampling: {tail: {max_spans: 0}}\n", `weft.yaml:1: sampling.tail.max_spans: want a whole number of spans from 1 to 1000000, got "0"`},
		{"sampling: {tail: {errors: false, ratio: 0}}\n", `weft.yaml:1: sampling.tail: keeps nothing; set one of errors, slower_than, slower_quantile, rare_per_minute, ratio`},
		{"targets:\n  - exe: a\n    k8s: {deployment: cart, statefulset: db}\n", "weft.yaml:3: targets[0].k8s: no pod has both a deployment and a statefulset; keep one, and write a second entry for the other"},
		{"targets: [{k8s: {namespace: \"\"}}]\n", "weft.yaml:1: targets[0].k8s.namespace: empty pattern matches nothing; leave the key out to match everything"},
		{"targets: [{k8s: {}}]\n", "weft.yaml:1: targets[0]: no selector; add one of exe, args, port, pid, cgroup, k8s"},
		{"kubernetes: {metadata: \"on\"}\n", `weft.yaml:1: kubernetes.metadata: want one of auto, off (off?), got "on"`},
	}
}

// repeat joins what item makes of 0 to n-1.
func repeat(n int, item func(int) string) string {
	items := make([]string, n)
	for i := range items {
		items[i] = item(i)
	}
	return strings.Join(items, ", ")
}

func networks(n int) string {
	return repeat(n, func(i int) string { return fmt.Sprintf("20.%d.%d.0/24", i>>8, i&255) })
}

func rules(n int) string {
	return repeat(n, func(i int) string { return fmt.Sprintf("{cidr: 20.0.%d.0/24}", i) })
}

func keyList(n int) string {
	return repeat(n, func(i int) string { return fmt.Sprintf("key%d", i) })
}

func setList(n int) string {
	return repeat(n, func(i int) string { return fmt.Sprintf("key%d: {header: X-%d}", i, i) })
}

func TestErrorLines(t *testing.T) {
	for _, c := range errorLines() {
		_, err := Parse("weft.yaml", []byte(c.text), nil)
		if err == nil || err.Error() != c.want {
			t.Errorf("%q:\n got %v\nwant %s", c.text, err, c.want)
		}
		var one *Error
		if err != nil && !errors.As(err, &one) {
			t.Errorf("%q: not an *Error: %T", c.text, err)
		}
	}
}

// What this version refuses is still checked first, so that a file that is
// wrong for every version says so.
func TestUnsupportedIsValidated(t *testing.T) {
	for text, want := range map[string]string{
		"targets: [{exe: a, k8s: {namspace: shop}}]":        `weft.yaml:1: unknown key "targets[0].k8s.namspace"; did you mean "targets[0].k8s.namespace"?`,
		"targets: [{exe: a, k8s: {labels: tier}}]":          `weft.yaml:1: targets[0].k8s.labels: want a mapping such as {tier: web}, got "tier"`,
		"targets: [{exe: a, k8s: {labels: {tier: [web]}}}]": `weft.yaml:1: targets[0].k8s.labels.tier: want a glob, got a list`,
	} {
		_, err := Parse("weft.yaml", []byte(text), nil)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q:\n got %v\nwant %s", text, err, want)
		}
	}
}

func TestEnvErrorLines(t *testing.T) {
	for variable, want := range map[string]string{
		"WEFT_LOG_LEVLE=info":                                 `WEFT_LOG_LEVLE: unknown variable; did you mean "WEFT_LOG_LEVEL"?`,
		"WEFT_INJECT=":                                        `WEFT_INJECT: unknown variable; known here: WEFT_CONFIG, WEFT_TARGETS, WEFT_CAPTURE,`,
		"WEFT_LOG_LEVEL=loud":                                 `WEFT_LOG_LEVEL: want one of debug, info, warn, error, got "loud"`,
		"WEFT_SAMPLING_RATIO=lots":                            `WEFT_SAMPLING_RATIO: want a number between 0 and 1, got "lots"`,
		"WEFT_CAPTURE=xdp":                                    `WEFT_CAPTURE: want one of fentry, kprobe, tracepoint, got "xdp"`,
		"WEFT_PROPAGATION_INJECT=a,b":                         `WEFT_PROPAGATION_INJECT[0]: want one of traceparent, tracestate, baggage, got "a"`,
		"WEFT_TARGETS=[{":                                     `WEFT_TARGETS:1: not YAML:`,
		"WEFT_TARGETS=[{prot: 80}]":                           `WEFT_TARGETS: unknown key "targets[0].prot"; did you mean "targets[0].port"?`,
		"WEFT_TARGETS=\n- exe: a\n- pid: x":                   `WEFT_TARGETS:2: targets[1].pid: want a process id, 1 to 4194304, got "x"`,
		"WEFT_SAMPLING_TAIL={keep: all}":                      `WEFT_SAMPLING_TAIL: unknown key "sampling.tail.keep"; known here: errors,`,
		"WEFT_SAMPLING_RULES=[{path: a}]":                     `WEFT_SAMPLING_RULES: sampling.rules[0].path: want the beginning of a path`,
		"WEFT_PROPAGATION_TRUST=10.0.0.1":                     `WEFT_PROPAGATION_TRUST[0]: 10.0.0.1 is an address; did you mean 10.0.0.1/32?`,
		"WEFT_PROPAGATION_EGRESS=[{}]":                        `WEFT_PROPAGATION_EGRESS: propagation.egress[0]: no cidr; add one`,
		"WEFT_BAGGAGE_ATTRIBUTES=a,b c":                       `WEFT_BAGGAGE_ATTRIBUTES[1]: "b c" is not a baggage key: use`,
		"WEFT_BAGGAGE_SET={a: {header: TE}, b: {header: te}}": `WEFT_BAGGAGE_SET: baggage.set.b: header "te" is already the source of "a"; remove one`,
	} {
		_, err := Parse("", nil, []string{variable})
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q:\n got %v\nwant %s", variable, err, want)
		}
	}
}

// otelErrorLines are those of the standard variables, by value of the sampler
// and of its argument.
func otelErrorLines() map[[2]string]string {
	return map[[2]string]string{
		{"parentbased_jaeger_remote", ""}: `OTEL_TRACES_SAMPLER: want one of always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off, parentbased_traceidratio (parentbased_always_on?), got "parentbased_jaeger_remote"`,
		{"always-on", ""}:                 `OTEL_TRACES_SAMPLER: want one of always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off, parentbased_traceidratio (always_on?), got "always-on"`,
		{"traceidratio", "10%"}:           `OTEL_TRACES_SAMPLER_ARG: want a number between 0 and 1, got "10%"`,
		{"traceidratio", "1e-20"}:         `OTEL_TRACES_SAMPLER_ARG: 1e-20 is too small to keep anything; write 0, or 1e-16 or more`,
	}
}

func TestOTelErrorLines(t *testing.T) {
	for value, want := range otelErrorLines() {
		_, err := Parse("", nil, []string{"OTEL_TRACES_SAMPLER_ARG=" + value[1], "OTEL_TRACES_SAMPLER=" + value[0]})
		if err == nil || err.Error() != want {
			t.Errorf("%q:\n got %v\nwant %s", value, err, want)
		}
	}
}

// What the documentation shows must be what the user sees.
func TestDocumentedErrors(t *testing.T) {
	text, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, c := range errorLines() {
		shown[c.want] = true
	}
	for _, line := range otelErrorLines() {
		shown[line] = true
	}
	found := 0
	for line := range strings.Lines(string(text)) {
		line, isError := strings.CutPrefix(strings.TrimSpace(line), "weft: ")
		if !isError {
			continue
		}
		found++
		if !shown[line] {
			t.Errorf("docs/cli.md shows a line that no test produces: %s", line)
		}
	}
	if found < 20 {
		t.Errorf("docs/cli.md shows %d error lines, too few to be all", found)
	}
	for _, k := range keys() {
		if !strings.Contains(string(text), "`"+k.path+"`") {
			t.Errorf("docs/cli.md does not explain %s", k.path)
		}
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	_, err := Parse("weft.yaml", []byte("lgo: {}\nsampling:\n  ratio: lots\n"), []string{"WEFT_LOG_FORMAT=xml"})
	want := []string{"weft.yaml:1:", "weft.yaml:3:", "WEFT_LOG_FORMAT:"}
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%v", len(lines), len(want), err)
	}
	for i := range want {
		if !strings.HasPrefix(lines[i], want[i]) {
			t.Errorf("line %d: %q, want %s…", i, lines[i], want[i])
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"prot", "port", 1}, {"kitten", "sitting", 3}, {"ratio", "ratio", 0}, {"ca", "abc", 3}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
		if got := distance(c.b, c.a); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.b, c.a, got, c.want)
		}
	}
}
