#!/bin/sh
# SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
# Fuzzes bpf/lib for so many seconds per target, starting from the committed
# corpus; inputs that reach new code are added to it. Usage: fuzz.sh SECONDS
set -eu
seconds=${1:?usage: bpf/tests/fuzz.sh SECONDS}
here=$(cd "$(dirname "$0")" && pwd)
clang=${CLANG:-clang-19}
command -v "$clang" >/dev/null || {
	echo "fuzz.sh: $clang not found: install it (Debian: apt-get install clang-19 libclang-rt-19-dev) or set CLANG" >&2
	exit 2
}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for target in http1 http2 traceparent tracestate baggage; do
	"$clang" -g -O1 -Wall -Wextra -Werror -fsanitize=fuzzer,address,undefined \
		-fno-sanitize-recover=all "$here/fuzz_$target.c" -o "$out/fuzz_$target"
	mkdir "$out/found"
	# Found inputs are merged, so that the corpus keeps only what covers more.
	"$out/fuzz_$target" -max_total_time="$seconds" -max_len=20000 -timeout=10 \
		-print_final_stats=1 -artifact_prefix="$here/crash-$target-" \
		"$out/found" "$here/corpus/$target"
	"$out/fuzz_$target" -merge=1 -max_len=20000 "$here/corpus/$target" "$out/found"
	rm -r "$out/found"
done
