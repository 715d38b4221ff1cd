# akidbd. `make help` lists the targets. Everything that is fetched or built as a tool is pinned and lies in
# $(CACHE), outside the checkout.
SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

export AKIDB_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/akidbd
CACHE   := $(AKIDB_CACHE)
BIN     := bin/akidbd
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GOFLAGS_BUILD := -trimpath -ldflags '-s -w -X main.version=$(VERSION)'

GOLANGCI_VERSION    := v2.15.0
GOVULNCHECK_VERSION := v1.9.0
GOLANGCI    := $(CACHE)/tools/golangci-lint-$(GOLANGCI_VERSION)/golangci-lint
GOVULNCHECK := $(CACHE)/tools/govulncheck-$(GOVULNCHECK_VERSION)/govulncheck

# An S3 server for tests.
VERSITYGW_VERSION := v1.8.0
VERSITYGW := $(CACHE)/tools/versitygw-$(VERSITYGW_VERSION)/versitygw

FETCH := go run ./test/fetch --cache $(CACHE)
ORT   = $(shell $(FETCH) --print ort)
MODEL = $(shell $(FETCH) --print model)

.PHONY: help
help: ## show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build fetch ## build, fetch ONNX Runtime and a model, serve on :8080
	@mkdir -p $(CACHE)/run
	@AKIDB_ENGINE_LIBRARY_PATH=$(ORT) AKIDB_STATE_DIR=$(CACHE)/run/state AKIDB_CACHE_DIR=$(CACHE)/run/cache \
	AKIDB_LOG_FORMAT=text AKIDB_DRAIN_DELAY=0s exec $(BIN) serve --model all-MiniLM-L6-v2=$(MODEL) $(ARGS)

.PHONY: mesh
mesh: build fetch ## four nodes in two regions on this machine, with certificates made on the spot
	@mkdir -p $(CACHE)/mesh
	@exec go run ./test/mesh --bin $(BIN) --library $(ORT) --model $(MODEL) --dir $(CACHE)/mesh $(ARGS)

.PHONY: build
build: ## build bin/akidbd
	go build $(GOFLAGS_BUILD) -o $(BIN) ./cmd/akidbd

.PHONY: fetch
fetch: ## fetch ONNX Runtime and all-MiniLM-L6-v2 into the cache, pinned by sha256
	@$(FETCH) ort model

.PHONY: test
test: fetch ## all tests that need no root, with the race detector
	CGO_ENABLED=0 go build $$(go list -f '{{if .GoFiles}}{{.ImportPath}}{{end}}' ./... | grep -v -e /infer/ort -e '/cmd/akidbd$$' -e /test/bench)
	AKIDB_TEST_ORT=$(ORT) AKIDB_TEST_MODEL=$(MODEL) go test -race -timeout 10m ./...

.PHONY: e2e
e2e: build fetch $(VERSITYGW) ## the real binary with real clients and a real S3 server
	AKIDB_TEST_VERSITYGW=$(VERSITYGW) go test -count=1 ./internal/sync/bucket
	AKIDB_TEST_ORT=$(ORT) AKIDB_TEST_MODEL=$(MODEL) AKIDB_TEST_BIN=$(CURDIR)/$(BIN) AKIDB_TEST_VERSITYGW=$(VERSITYGW) \
	go test -tags e2e -count=1 -timeout 20m -v ./test/e2e

.PHONY: e2e-mesh
e2e-mesh: build fetch ## fleets in network namespaces, broken on purpose; needs root; ARGS=-list names the scenarios
	go run ./test/lab -bin $(BIN) -library $(ORT) -model $(MODEL) $(ARGS)

ZIG_DIR := $(CACHE)/tools/zig-0.15.2
ZIG     := $(ZIG_DIR)/ziglang/zig
PACKAGE  = ZIG_GLOBAL_CACHE_DIR=$(CACHE)/zig go run ./systemd/package --zig $(ZIG) --ort "$(FETCH)"
.PHONY: deb
deb: $(ZIG) ## Debian packages for amd64 and arm64 in dist/
	$(PACKAGE) --version $(VERSION) $(ARGS)

E2E_DIST := $(CURDIR)/dist/e2e
E2E_DEB   = $(PACKAGE) --out $(E2E_DIST) --compression gzip
.PHONY: e2e-systemd
e2e-systemd: $(ZIG) fetch ## packages, systemd and apt on machines in containers, arm64 under qemu; needs root and Debian
	@test/systemd/possible.sh # and installs what it needs
	@mkdir -p $(E2E_DIST)
	$(E2E_DEB) --version v0.0.1 --arch $(shell go env GOARCH)
	$(E2E_DEB) --version v0.0.2 --arch amd64,arm64
	go build -tags faults -o $(E2E_DIST)/bin/akidbd ./cmd/akidbd
	AKIDB_TEST_ORT=$(ORT) AKIDB_TEST_MODEL=$(MODEL) AKIDB_E2E_DIST=$(E2E_DIST) \
	go test -tags systemd -count=1 -timeout 15m -v $(ARGS) ./test/systemd

$(ZIG): systemd/package/zig.txt
	@rm -rf $(ZIG_DIR) && mkdir -p $(ZIG_DIR)
	python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes -r $< -d $(ZIG_DIR)
	cd $(ZIG_DIR) && python3 -m zipfile -e *.whl . && rm *.whl && chmod +x ziglang/zig && touch ziglang/zig

.PHONY: bench
bench: fetch ## the server against the ceiling of the machine, as ratios (docs/benchmarks.md); about 15 minutes
	go run ./test/bench --library $(ORT) --model $(MODEL) $(ARGS)
	go test -run '^$$' -bench . -benchmem ./internal/tokenizer ./internal/api ./internal/infer/pooling

NODES := 300
.PHONY: bench-mesh
bench-mesh: ## what a large fleet costs and how soon it knows of a death (docs/resilience.md); NODES=300 takes half an hour and 8 GiB
	AKIDB_TEST_SCALE=$(NODES) go test -count=1 -timeout 2h -v -run TestScale ./internal/daemon/daemontest
	AKIDB_TEST_FLEET=1000 go test -count=1 -timeout 2h -v -run 'TestFleet$$' ./internal/gossip

TOKENIZERS := $(CACHE)/tools/tokenizers-0.23.3
.PHONY: bench-tokenizer
bench-tokenizer: ## our tokenizer and Hugging Face's, one after the other on the same texts
	@test -x $(TOKENIZERS)/bin/python || { python3 -m venv $(TOKENIZERS) && $(TOKENIZERS)/bin/pip install -q tokenizers==0.23.3; }
	$(TOKENIZERS)/bin/python internal/tokenizer/testdata/bench_reference.py
	go test -run '^$$' -bench Encode -benchmem ./internal/tokenizer

FUZZTIME := 30s
.PHONY: fuzz
fuzz: ## fuzz every parser, FUZZTIME=30s each
	@for pkg in $$(grep -rl --include='*_test.go' '^func Fuzz' internal test cmd | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -h '^func Fuzz' $$pkg/*_test.go | sed 's/func \(Fuzz[A-Za-z0-9_]*\).*/\1/'); do \
	    echo "$$pkg $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) ./$$pkg; \
	  done; done

.PHONY: lint
lint: $(GOLANGCI) $(GOVULNCHECK) ## golangci-lint and govulncheck
	$(GOLANGCI) run ./...
	@if ! out=$$($(GOVULNCHECK) ./... 2>&1); then echo "$$out"; \
	  if grep -q -e 'fetching vulnerabilities' -e 'no such host' -e 'dial tcp' <<<"$$out"; then \
	    echo "SKIPPED: govulncheck cannot reach its database"; else exit 1; fi; fi

$(GOLANGCI):
	GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

$(VERSITYGW):
	cd / && GOBIN=$(@D) go install github.com/versity/versitygw/cmd/versitygw@$(VERSITYGW_VERSION)

$(GOVULNCHECK):
	GOBIN=$(@D) go install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)

.PHONY: generate
generate: ## generate the protobuf code again
	internal/gen/generate.sh

.PHONY: clean
clean: ## remove what was built here; the cache stays
	rm -rf bin dist
