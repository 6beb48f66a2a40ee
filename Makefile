# What there is to do with this project; `make help` lists it. Whatever is longer than two lines is in scripts/.

.PHONY: help build run test test-matrix fuzz bench lint fmt demo clean

help: ## list the targets (default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{ printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## install what is missing and build target/release/libcorral.so
	scripts/setup.sh run
	cargo build --release

run: build ## start a server with the module in the foreground (PORT=n, DIR=/path/to/keep/the/data)
	scripts/run.sh

test: build ## unit tests, and all other tests on one server (SERVER=/path/to/server)
	scripts/test.sh all

test-matrix: build ## the tests on Redis 7.0 to 8.10 and Valkey 8.0 to 9.1 (SERVERS="name ..." for some)
	scripts/setup.sh matrix
	scripts/test.sh matrix $(SERVERS)

fuzz: build ## random commands, at last all data compared (SECONDS=60 SEED=n SERVER=/path/to/server)
	cargo build --release --example fuzz
	scripts/fuzz.sh

bench: build ## measure (ARGS="...")
	cargo bench --bench corral -- $(ARGS)

lint: ## format check, clippy, shellcheck
	scripts/setup.sh lint
	scripts/lint.sh

fmt: ## format the code
	cargo fmt

demo: build ## the three problems and their end, live in the terminal
	scripts/demo.sh

clean: ## remove everything that was built here (not the servers of test-matrix: scripts/servers.sh)
	cargo clean
