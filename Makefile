# `make` alone prints this help. Every target is what CI runs too.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PROFILE ?= release
# One binary is shipped: static, so that it runs on any distribution and inside its own built-in image.
STATIC := -C target-feature=+crt-static
BIN := target/minik/$(PROFILE)/minik

.PHONY: help
help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

.PHONY: build
build: ## Build the one static binary (PROFILE=release|ci|dev)
	cargo rustc --locked -p minik --bin minik --profile $(PROFILE) -- $(STATIC)
	@mkdir -p $(dir $(BIN))
	@cp --remove-destination target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/minik $(BIN)
	@echo "built $(BIN) ($$(( $$(stat -c %s $(BIN)) / 1000000 )) MB)"

.PHONY: tools
tools: ## Install what demo and tests need and this machine lacks (kubectl, nft, ...)
	integration/tools.sh

.PHONY: clients
clients: ## Install the API clients that only tests need (the official Python client; where Go is, a Go client)
	integration/clients.sh

.PHONY: demo
demo: tools build ## Start a three-node lab, apply examples/, show a Service at work (KEEP=1 leaves it up)
	KEEP=$(KEEP) integration/demo.sh $(BIN)

.PHONY: test
test: tools clients lint ## Lint, build and run every test: pure, shell and whole
	$(MAKE) build PROFILE=dev
	MINIK_BIN=$(CURDIR)/target/minik/dev/minik integration/test.sh

.PHONY: test-kernel
test-kernel: tools ## Run dataplane tests and a node on stock Debian kernels in emulated machines (KERNELS="bookworm ...")
	integration/tools.sh vm
	$(MAKE) build PROFILE=dev
	integration/test-kernel.sh $(CURDIR)/target/minik/dev/minik $(KERNELS)

.PHONY: lint
lint: ## rustfmt, clippy and source files that no module declares
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	integration/orphans.sh

.PHONY: deny
deny: ## Check licences, sources and advisories of every dependency (needs cargo-deny)
	cargo deny check

.PHONY: fmt
fmt: ## Format the sources
	cargo fmt --all

.PHONY: doc
doc: ## Build the documentation of every crate
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

.PHONY: bench-dataplane
bench-dataplane: tools ## Measure the dataplane beside other rulesets: sync, changes, memory, first packets (CHAINS=30000: slow)
	integration/bench-dataplane.sh $(CHAINS)

.PHONY: bench
bench: tools build ## Measure: sizes, start-up, idle cost, propagation, full sync, durable writes
	integration/bench.sh $(BIN)
