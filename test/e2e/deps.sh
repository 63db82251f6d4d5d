#!/bin/sh
# Installs what the end-to-end programs need on a Debian machine: nginx, curl,
# python3 and node by apt where they are missing; Flask and Express, pinned,
# into $WEFT_E2E_DEPS (default: the user's cache). Quick when all is there.
#
#   $WEFT_E2E_DEPS/python        for PYTHONPATH, with /usr/bin/python3
#   $WEFT_E2E_DEPS/python-otel   the OpenTelemetry SDK, for PYTHONPATH beside the former
#   $WEFT_E2E_DEPS/node_modules  for NODE_PATH
#   $WEFT_E2E_DEPS/java          for java -cp (absent with WITHOUT=java)
#   $WEFT_E2E_DEPS/bin           static gosvc, rawhttp, goends, demo, and variants of
#                                gomatrix and gogrpc: for machines without Go
# What other toolchains built is kept beside it, in weft-variants.
#
# WEFT_E2E_WITHOUT=java,nginx leaves programs out, as in the tests.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
apps=$root/test/apps
deps=${WEFT_E2E_DEPS:-${XDG_CACHE_HOME:-$HOME/.cache}/weft-e2e}
without=",${WEFT_E2E_WITHOUT:-},"

wanted() { case $without in *",$1,"*) return 1 ;; esac; }

die() {
	echo "deps.sh: $*" >&2
	exit 2
}

# need PROGRAM PACKAGE [NAME]: apt installs PACKAGE if PROGRAM is missing.
missing=
need() {
	wanted "${3:-$2}" || return 0
	[ -x "$1" ] || missing="$missing $2"
}
need /usr/sbin/nginx nginx-light nginx
need /usr/bin/curl curl
need /usr/bin/python3 python3
if wanted flask; then
	/usr/bin/python3 -m pip --version >/dev/null 2>&1 || missing="$missing python3-pip"
fi
if wanted express && ! command -v node >/dev/null; then
	missing="$missing nodejs"
fi
if wanted express && ! command -v npm >/dev/null; then
	missing="$missing npm"
fi
if wanted java && ! command -v javac >/dev/null; then
	missing="$missing default-jdk-headless"
fi
if [ -n "$missing" ]; then
	[ "$(id -u)" = 0 ] || die "missing$missing: run as root once, or apt-get install$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q >/dev/null || die "apt-get update failed: is the package mirror reachable?"
	# shellcheck disable=SC2086 # a list of packages
	apt-get install -qy --no-install-recommends $missing >/dev/null ||
		die "apt-get install$missing failed"
fi

mkdir -p "$deps"

# fresh NAME FILE…: true if NAME was made from exactly these files.
fresh() {
	name=$1
	shift
	sum=$(cat "$@" | sha256sum | cut -d' ' -f1)
	[ -e "$deps/$name" ] && [ "$(cat "$deps/.$name.sum" 2>/dev/null)" = "$sum" ]
}
made() { echo "$sum" >"$deps/.$1.sum"; }

if wanted flask && ! fresh python "$apps/flask/requirements.txt"; then
	rm -rf "$deps/python"
	/usr/bin/python3 -m pip install --quiet --no-deps --root-user-action ignore \
		--disable-pip-version-check --target "$deps/python" \
		-r "$apps/flask/requirements.txt" || die "pip install failed"
	made python
fi

if wanted flask && ! fresh python-otel "$apps/otelsdk/requirements.txt"; then
	rm -rf "$deps/python-otel"
	/usr/bin/python3 -m pip install --quiet --no-deps --root-user-action ignore \
		--disable-pip-version-check --target "$deps/python-otel" \
		-r "$apps/otelsdk/requirements.txt" || die "pip install failed"
	made python-otel
fi

if wanted express && ! fresh node_modules "$apps/express/package-lock.json"; then
	rm -rf "$deps/node_modules"
	cp "$apps/express/package.json" "$apps/express/package-lock.json" "$deps/"
	npm ci --prefix "$deps" --no-audit --no-fund --silent || die "npm ci failed"
	made node_modules
fi

if wanted java && ! fresh java "$apps/java/Mid.java"; then
	rm -rf "$deps/java"
	javac --release 11 -d "$deps/java" "$apps/java/Mid.java" || die "javac failed"
	made java
fi

mkdir -p "$deps/bin"
cd "$root"
for p in test/apps/gosvc test/apps/rawhttp test/apps/goends demo; do
	CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o "$deps/bin/" "./$p" || die "go build ./$p failed"
done
go run ./test/e2e/variant/prebuild "$apps" "${XDG_CACHE_HOME:-$HOME/.cache}/weft-variants" "$deps/bin" || die "building the Go variants failed"
echo "$deps"
