# What one may do here. CI runs the same recipes.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# More arguments for `make run`, such as ARGS="--nodes 3".
ARGS ?=
# What the official clients said. A skipped test fails the run for CI.
INTEROP_LOG := $(CURDIR)/target/interop.log
# Part of the names of the steps that `make micro` measures, such as STEP=outbox; without it, all of them.
STEP ?=
# Seconds per fuzz target.
SECONDS_PER_TARGET ?= 60

.PHONY: help
help: ## This list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 26

.PHONY: run
run: ## One node for development on 127.0.0.1:8080: no auth, no Redis.
	@crates/test/tools.sh build
	cargo run --locked --release -p tidegate -- serve --dev $(ARGS)

.PHONY: test
test: ## Every test, with a real redis-server, the official JavaScript clients and Chromium.
	@crates/test/tools.sh build redis node netns chromium
	@# Programs and tests in one go: with other features of their libraries, half of it would be built twice.
	cargo build --locked --workspace --lib --bins --tests
	cargo test --locked --workspace
	cd crates/client-js && npm ci --no-audit --no-fund && npm test
	cd crates/test/interop && npm ci --no-audit --no-fund
	mkdir -p $(dir $(INTEROP_LOG))
	cd crates/test/interop && npm test | tee $(INTEROP_LOG)
	@grep -qE '^# pass [1-9]' $(INTEROP_LOG) || { echo "no test has run" >&2; exit 1; }
	@for kind in skipped todo cancelled; do \
		! grep -qE "^# $$kind [1-9]" $(INTEROP_LOG) || { echo "there are tests that were $$kind" >&2; test -z "$${CI:-}"; }; \
	done
	@! grep -E '^ *(not )?ok .* # (SKIP|TODO)' $(INTEROP_LOG) || { echo "these were not judged" >&2; test -z "$${CI:-}"; }

.PHONY: test-the-tests
test-the-tests: ## The official clients' tests against a stock server, which must pass them.
	@crates/test/tools.sh redis node
	cd crates/test/interop && npm ci --no-audit --no-fund && npm run test:stock

.PHONY: lint
lint: ## Format and lints of Rust, the shell's scripts and C.
	@crates/test/tools.sh build shellcheck
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --features tidegate-test/bench -- -D warnings
	shellcheck -x $$(git grep -lE '^#!.*\bsh$$|^#!.*\bbash$$|^# shellcheck shell')
	$(MAKE) -B -C loadtest/peers/floor FLOOR=$(CURDIR)/target/floor CFLAGS='-O2 -Wall -Wextra -Werror'
	@echo 'NOT BUILT: loadtest/peers/socketioxide, a workspace of its own that takes minutes; side-by-side.sh does'

.PHONY: fuzz
fuzz: ## Every parser's fuzz target for SECONDS_PER_TARGET seconds.
	@crates/test/tools.sh build
	crates/protocol/fuzz/run.sh $(SECONDS_PER_TARGET)
	crates/redis/fuzz/run.sh $(SECONDS_PER_TARGET)

.PHONY: bench
bench: ## Everything beside a C floor, stock Socket.IO and socketioxide; takeovers; durable messages. See loadtest/README.md.
	@crates/test/tools.sh build redis node
	loadtest/side-by-side.sh
	loadtest/bench.sh

.PHONY: micro
micro: ## What single steps cost, in instructions and nanoseconds: codec, envelope, hub, outbox. See loadtest/README.md.
	@crates/test/tools.sh build valgrind
	@echo "$$(date -u +%F),$$(sed -n 's/^model name[^:]*://p;T;q' /proc/cpuinfo), $$(uname -sr), $$(rustc --version)"
	cargo bench --locked -p tidegate-test --features bench --bench micro -- "$(STEP)"

.PHONY: monitoring
monitoring: ## Prometheus's rules with their tests, the runbook, the dashboard; all of it against a real cluster under load.
	@crates/test/tools.sh build redis node prometheus haproxy
	cargo build --locked -p tidegate
	crates/test/monitoring/check.sh
	crates/test/monitoring/live.sh

.PHONY: cluster-test
cluster-test: ## The image built and docker-compose.yml run on an engine of its own, and ill-treated. Takes root.
	@crates/test/tools.sh build node lab docker
	cd crates/test/interop && npm ci --no-audit --no-fund
	crates/test/cluster/run.sh

.PHONY: rehearse
rehearse: ## The README's two commands in a bare Debian. Takes root.
	@crates/test/tools.sh build lab
	crates/test/rehearsal/run.sh

.PHONY: manifests
manifests: ## The compose file and the Kubernetes manifests against their schemas, the program, and each other.
	@crates/test/tools.sh build
	cargo build --locked -p tidegate
	k8s/check.sh
