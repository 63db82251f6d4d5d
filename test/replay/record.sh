#!/bin/sh
# Makes the recordings of testdata/ anew, from real programs on this kernel: needs
# root, bin/weft, bin/demo, and what test/e2e/deps.sh installs. Prints which process
# is which service; write that into recording_test.go and run with -update.
#
#   make build && sudo test/replay/record.sh
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
weft=${WEFT_BIN:-$root/bin/weft}
apps=$root/test/apps
deps=${WEFT_E2E_DEPS:-${XDG_CACHE_HOME:-$HOME/.cache}/weft-e2e}
export PYTHONPATH="$deps/python" NODE_PATH="$deps/node_modules" PYTHONDONTWRITEBYTECODE=1

# listening PORT: waits without a request, which would be recorded.
listening() {
	until ss -Hltn "sport = :$1" | grep -q .; do sleep 0.05; done
}

# Inside `weft exec`: record.sh chain FUNCTION. Flask calls Express; FUNCTION is
# their customer.
chain() {
	PORT=8002 OTEL_SERVICE_NAME=express node "$apps/express/server.js" &
	express=$!
	PORT=8001 DOWNSTREAM=http://127.0.0.1:8002/leaf OTEL_SERVICE_NAME=flask \
		/usr/bin/python3 "$apps/flask/app.py" >/dev/null 2>&1 &
	flask=$!
	trap 'kill $flask $express' EXIT
	listening 8001 && listening 8002
	"$1"
}

plain() {
	curl -s -o /dev/null http://127.0.0.1:8001/call?id=one -o /dev/null http://127.0.0.1:8001/call?id=two
	curl -s -o /dev/null http://127.0.0.1:8001/nowhere
}

# The customer claims a context: once from this host, once from outside.
carried() {
	for from in 127.0.0.1 127.0.0.9; do
		curl -s -o /dev/null --interface $from http://127.0.0.1:8001/call?id=$from \
			-H 'traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01' \
			-H 'tracestate: vendor=1' -H 'TraceState: other=a:b;c' \
			-H 'baggage: tenant=blue, colour=r%C3%B6t;private' -H 'X-User-Id: 7 & co'
	done
}

# Inside `weft exec`: two Go services, given a while to be attached to, and a customer
# who asks twice.
go_chain() {
	OTEL_SERVICE_NAME=stock "$goshop" stock 127.0.0.1:8002 127.0.0.1:8003 &
	stock=$!
	OTEL_SERVICE_NAME=shop "$goshop" shop 127.0.0.1:8001 127.0.0.1:8002 127.0.0.1:8003 &
	shop=$!
	trap 'kill $shop $stock' EXIT
	listening 8001 && listening 8002 && listening 8003
	sleep 10
	curl -s -o /dev/null http://127.0.0.1:8001/items/one -o /dev/null http://127.0.0.1:8001/items/two
}

if [ "${1:-}" = chain ]; then
	chain "$2"
	exit
fi
if [ "${1:-}" = go_chain ]; then
	go_chain
	exit
fi

config=$(mktemp)
trap 'rm -f "$config"' EXIT
cat >"$config" <<YAML
propagation: {trust: ["127.0.0.1/32"]}
baggage:
  attributes: [tenant, user_id]
  set: {user_id: {header: X-User-Id}}
log: {level: warn}
telemetry: {listen: ""}
YAML

# record FILE [FLAG…] -- COMMAND…
spans=$(mktemp)
trap 'rm -f "$config" "$spans"' EXIT
record() {
	echo "$1"
	file=$here/testdata/$1
	shift
	"$weft" exec --format json --record "$file" "$@" >/dev/null 2>"$spans" || {
		cat "$spans" >&2
		exit 1
	}
	grep -o '"service":"[a-z]*","pid":[0-9]*' "$spans" | sort -u
}
goshop=$(mktemp)
export goshop
trap 'rm -f "$config" "$spans" "$goshop"' EXIT
(cd "$root" && go build -o "$goshop" ./test/apps/goshop)
record go_shop.ring -- "$here/record.sh" go_chain
record demo.ring -- "$root/bin/demo"
record flask_express.ring -- "$here/record.sh" chain plain
record carried.ring --config "$config" -- "$here/record.sh" chain carried
