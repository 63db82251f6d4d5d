# weft. `make` alone lists what there is. Go alone builds it; what the other
# targets need is installed by .ci/run on a Debian machine, or named by them.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO ?= go
CLANG_FORMAT ?= clang-format-19
GOLANGCI_LINT ?= $(shell command -v golangci-lint 2>/dev/null || echo $(shell $(GO) env GOPATH)/bin/golangci-lint)
# Further flags for go test, such as TESTFLAGS=-v.
TESTFLAGS ?=
# make vm: Debian kernel series, ways of capture (empty: weft chooses), the
# share of the requests, and which tests (a regular expression).
KERNEL ?= 6.1
CAPTURE ?=
SCALE ?= 0.05
# How many requests to Go programs are in flight there: more starve weft until its
# deadline passes.
CONCURRENCY ?= 8
RUN ?= .
# Tests that make soak runs and the others leave out: they take minutes.
SKIP ?= ^Test(Fault|Soak)
# make soak: how long the steady load is, and for how long weft is killed again
# and again.
DURATION ?= 1h
KILLS ?= 10m
# make bench: further flags, see go run ./bench -help.
BENCHFLAGS ?=
# make fuzz: seconds for each target.
FUZZTIME ?= 30

ldflags = -X main.version=$(VERSION)
c_sources = $(shell find bpf -name '*.c' -o -name '*.h')
# The end-to-end tests and the image need root; everything else runs without.
unit = $(shell $(GO) list ./... | grep -vxE 'weft/(test/e2e|deploy/image)')
race = $(if $(and $(filter 1,$(shell $(GO) env CGO_ENABLED)),$(shell command -v $(firstword $(shell $(GO) env CC)))),-race)

.PHONY: help build generate check-generate offsets check-offsets fmt lint test test-root soak vm kernels verified check-verified collector manifests apiserver fuzz bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## bin/weft and bin/demo, static; needs Go alone
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(ldflags)" -o bin/weft ./cmd/agent
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/demo ./demo

generate: ## compile bpf/ into loader/*_bpfel.{go,o}; needs clang-19, llvm-19, libbpf-dev
	$(GO) generate ./loader

check-generate: ## fail if loader/*_bpfel.{go,o} are not what bpf/ compiles to
	@GO=$(GO) .ci/generated

offsets: ## measure where fields are in Go and its modules, into loader/gobin/offsets/table.tsv; downloads 2 GB
	$(GO) run ./loader/gobin/offsets/generate -o loader/gobin/offsets/table.tsv

check-offsets: ## measure a handful of them anew and compare them with the table
	$(GO) run ./loader/gobin/offsets/generate -check

fmt: ## format Go and C in place
	gofmt -w $$(git ls-files -co --exclude-standard '*.go' | grep -v _bpfel)
	$(CLANG_FORMAT) -i $(c_sources)

lint: ## golangci-lint, dependency arrows, C format and padding, size of files
	@command -v "$(GOLANGCI_LINT)" >/dev/null || { echo "lint: no golangci-lint: go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0"; exit 1; }
	@command -v $(CLANG_FORMAT) >/dev/null || { echo "lint: no $(CLANG_FORMAT): apt-get install clang-format-19, or set CLANG_FORMAT"; exit 1; }
	@status=0; \
	$(GOLANGCI_LINT) run ./... || status=1; \
	(cd test/collector && CGO_ENABLED=0 $(GOLANGCI_LINT) run .) || status=1; \
	(cd test/manifests && CGO_ENABLED=0 GOFLAGS='$(GOFLAGS) -trimpath "-gcflags=all=-N -l -dwarf=false"' $(GOLANGCI_LINT) run .) || status=1; \
	GOLANGCI_LINT=$(GOLANGCI_LINT) .ci/arrows || status=1; \
	CLANG_FORMAT=$(CLANG_FORMAT) .ci/sources || status=1; \
	exit $$status

test: ## everything that needs no root, C parsers included; with -race where a C compiler is
	$(GO) test $(race) -timeout 10m $(TESTFLAGS) $(unit)

test-root: ## load into this kernel, trace real programs, build the image; needs root
	@[ "$$(id -u)" = 0 ] || { echo "test-root: loading BPF programs needs root: sudo make test-root"; exit 1; }
	test/e2e/deps.sh >/dev/null
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(ldflags)" -o bin/weft ./cmd/agent
	@export WEFT_BIN=$(CURDIR)/bin/weft; \
	run() { $(GO) test -count=1 -p 1 -timeout 38m -run '$(value RUN)' -skip '$(value SKIP)' $(TESTFLAGS) ./test/e2e ./loader/... ./bpf/tests ./deploy/image; }; \
	[ -n "$$WEFT_E2E_RESULTS" ] || { run; exit; }; \
	wanted=$$WEFT_E2E_RESULTS; results=$(CURDIR)/bin/results/host-$${WEFT_CAPTURE:-auto}; \
	rm -rf "$$results" && mkdir -p "$$results" || exit 1; \
	export WEFT_E2E_RESULTS=$$results/loads.jsonl WEFT_E2E_DOCTOR=$$results/doctor.json; \
	run; status=$$?; \
	echo '$(VERSION)' >"$$results/version"; \
	echo $$status >"$$results/status"; \
	[ ! -e "$$results/loads.jsonl" ] || cat "$$results/loads.jsonl" >>"$$wanted" || exit 1; \
	$(GO) run ./test/vm/table && exit $$status

go-matrix: ## every Go from 1.19 on, stripped or not, PIE, cgo, race: 80 builds, hours the first time; needs root
	@[ "$$(id -u)" = 0 ] || { echo "go-matrix: loading BPF programs needs root: sudo make go-matrix"; exit 1; }
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(ldflags)" -o bin/weft ./cmd/agent
	WEFT_BIN=$(CURDIR)/bin/weft WEFT_E2E_GO=full $(GO) test -count=1 -timeout 0 -v -run '^Test(Go|GRPC)' $(TESTFLAGS) ./test/e2e

soak: ## faults, then a steady load whose cost must stay flat; needs root: make soak DURATION=8h
	@[ "$$(id -u)" = 0 ] || { echo "soak: loading BPF programs needs root: sudo make soak"; exit 1; }
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(ldflags)" -o bin/weft ./cmd/agent
	@mkdir -p bin/results
	WEFT_BIN=$(CURDIR)/bin/weft WEFT_SOAK=$(DURATION) WEFT_FAULT_KILLS=$(KILLS) WEFT_SOAK_REPORT=$(CURDIR)/bin/results/soak.txt \
		$(GO) test -count=1 -timeout 0 -v -run '^Test(Fault|Soak)' $(TESTFLAGS) ./test/e2e

vm: ## the same in a Debian kernel under QEMU: make vm KERNEL=6.12 [CAPTURE="fentry kprobe"]
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(ldflags)" -o bin/weft ./cmd/agent
	CGO_ENABLED=0 $(GO) test -c -trimpath -o bin/e2e.test ./test/e2e
	@deps=$$(WEFT_E2E_WITHOUT=java test/e2e/deps.sh | tail -n 1) && worst=0 && \
	for capture in $(or $(CAPTURE),auto); do \
		way=$$capture; [ $$way != auto ] || way=; \
		results=bin/results/$(KERNEL)-$$capture; \
		rm -rf "$$results" && mkdir -p "$$results" || exit 1; \
		echo "== kernel $(KERNEL), capture $$capture"; \
		$(GO) run ./test/vm -kernel $(KERNEL) -userland -timeout 15m \
			-add bin/weft:/opt/weft/weft -add "$$deps":/opt/weft/deps -add test/apps:/opt/weft/apps \
			-env WEFT_BIN=/opt/weft/weft -env WEFT_E2E_DEPS=/opt/weft/deps -env WEFT_E2E_APPS=/opt/weft/apps \
			-env WEFT_E2E_WITHOUT=java -env WEFT_E2E_SCALE=$(SCALE) -env WEFT_E2E_CONCURRENCY=$(CONCURRENCY) -env WEFT_CAPTURE=$$way -env WEFT_E2E_VM=1 -env CI \
			-env WEFT_E2E_RESULTS=/root/results/loads.jsonl -env WEFT_E2E_DOCTOR=/root/results/doctor.json \
			-get /root/results:$$results \
			-- bin/e2e.test -test.v -test.timeout 14m -test.run '$(value RUN)' -test.skip '$(value SKIP)'; status=$$?; \
		echo '$(VERSION)' >"$$results/version"; \
		echo $$status >"$$results/status"; \
		[ $$status = 0 ] || { worst=1; break; }; \
	done; \
	$(GO) run ./test/vm/table && exit $$worst

# Ways of capture by kernel: those that doctor does not find missing there.
kernels_runs = 5.10=fentry 5.10=kprobe 6.1=fentry 6.1=kprobe \
	6.12=fentry 6.12=kprobe 6.12=tracepoint newest=fentry newest=kprobe newest=tracepoint
kernels: ## docs/kernels.md anew, every row of it: 10 virtual machines and this host, half an hour; needs root
	@[ "$$(id -u)" = 0 ] || { echo "kernels: the row of this host needs root: sudo make kernels"; exit 1; }
	rm -rf bin/results
	@worst=0; begun=$$(date +%s); \
	for run in $(kernels_runs); do \
		$(MAKE) --no-print-directory vm VERSION='$(VERSION)' KERNEL=$${run%=*} CAPTURE=$${run#*=} RUN='^TestChain$$/^gunicorn-express$$/^keepalive$$' || worst=1; \
	done; \
	WEFT_E2E_RESULTS=/dev/null $(MAKE) --no-print-directory test-root VERSION='$(VERSION)' RUN='^TestChain$$/^gunicorn-express$$' || worst=1; \
	echo "kernels: $$((($$(date +%s) - begun) / 60)) min"; \
	exit $$worst

# Kernels of verified and check-verified: host, or Debian series under QEMU.
verified_kernels = $(if $(filter command line environment,$(origin KERNEL)),$(KERNEL),host 5.10 6.1 6.12 newest)
verified_test = -count=1 -timeout 10m -run '^TestVerified$$' -v $(TESTFLAGS) ./loader
verified_guest = $(GO) run ./test/vm -kernel $$kernel -timeout 12m
verified: ## record the verifier's instruction counts: make verified [KERNEL="host 6.1"]; root for host
	@CGO_ENABLED=0 $(GO) test -c -trimpath -o bin/loader.test ./loader && \
	for kernel in $(verified_kernels); do \
		echo "== kernel $$kernel"; \
		if [ $$kernel = host ]; then \
			$(GO) test $(verified_test) -verified testdata/verified || exit 1; \
		else \
			$(verified_guest) -get /root/verified:loader/testdata/verified \
				-- bin/loader.test -test.v -test.run '^TestVerified$$' -verified /root/verified || exit 1; \
		fi; \
	done

check-verified: ## fail if a count exceeds its record by 10 %: make check-verified [KERNEL="host 6.1"]
	@CGO_ENABLED=0 $(GO) test -c -trimpath -o bin/loader.test ./loader && worst=0 && \
	for kernel in $(verified_kernels); do \
		echo "== kernel $$kernel"; \
		if [ $$kernel = host ]; then \
			$(GO) test $(verified_test) || worst=1; \
		else \
			$(verified_guest) -env CI -- bin/loader.test -test.v -test.run '^TestVerified$$' || worst=1; \
		fi; \
	done; \
	exit $$worst

# A module of its own: the Collector's dependencies stay out of weft's go.mod.
# Not optimised, which takes a third off a cold build.
collector_flags = -trimpath -gcflags='all=-N -l -dwarf=false' -ldflags='-s -w'
collector: ## deploy/collector in the real OpenTelemetry Collector; the first build takes minutes
	cd test/collector && CGO_ENABLED=0 $(GO) build $(collector_flags) -o $(CURDIR)/bin/otelcol ./otelcol
	cd test/collector && CGO_ENABLED=0 WEFT_OTELCOL=$(CURDIR)/bin/otelcol $(GO) test $(collector_flags) -count=1 -timeout 5m $(TESTFLAGS) .

# A module of its own too: Kubernetes is among its dependencies.
manifests: ## deploy/daemonset.yaml before Kubernetes' own checks; as root, its pod under runc too
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(ldflags)" -o bin/weft ./cmd/agent
	cd test/manifests && CGO_ENABLED=0 WEFT_BIN=$(CURDIR)/bin/weft $(GO) test $(collector_flags) -count=1 -timeout 9m $(TESTFLAGS) .

apiserver: ## the same in a real API server, which takes minutes to build; needs etcd-server
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(ldflags)" -o bin/weft ./cmd/agent
	cd test/manifests && CGO_ENABLED=0 nice -n 15 $(GO) build $(collector_flags) -o $(CURDIR)/bin/kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
	cd test/manifests && CGO_ENABLED=0 WEFT_BIN=$(CURDIR)/bin/weft WEFT_TEST_APISERVER=$(CURDIR)/bin/kube-apiserver $(GO) test $(collector_flags) -count=1 -timeout 9m -run '^TestServer$$' $(TESTFLAGS) .

fuzz: ## fuzz the C parsers and every Go fuzz target, FUZZTIME=30 seconds each
	bpf/tests/fuzz.sh $(FUZZTIME)
	@grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9]+' . | sed -E 's,^(.*)/[^/]*:func (.*)$$,\1 \2,' | \
	while read -r package name; do \
		echo "== $$package $$name"; \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME)s "$$package" || exit 1; \
	done

bench: ## what tracing costs on this machine, 36 min: make bench [BENCHFLAGS="-only go-http1"]; needs root
	test/e2e/deps.sh >/dev/null
	$(GO) run ./bench $(BENCHFLAGS)
