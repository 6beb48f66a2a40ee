# The tasks of this project; `make help` lists them. Anything longer than two lines is in scripts/.

.PHONY: help build run test test-matrix test-python test-node fuzz bench lint fmt demo clean

help: ## list the targets (default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{ printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## install missing dependencies and build target/release/libcorral.so
	scripts/setup.sh run
	cargo build --release

run: build ## start a server with the module in the foreground (PORT=n, DIR=/path/for/persistent/data)
	scripts/run.sh

test: build ## run the unit tests, and all other tests on one server (SERVER=/path/to/server)
	scripts/test.sh all

test-matrix: build ## run the tests on Redis 7.0 to 8.10 and Valkey 8.0 to 9.1 (SERVERS="name ..." selects some)
	scripts/setup.sh matrix
	scripts/test.sh matrix $(SERVERS)

test-python: build ## check and test the package for Python (SERVER=/path/to/server)
	scripts/python.sh all

test-node: build ## check and test the package for Node (SERVER=/path/to/server)
	scripts/node.sh all

fuzz: build ## run random commands, then compare all data (SECONDS=60 SEED=n SERVER=/path/to/server)
	cargo build --release --example fuzz
	scripts/fuzz.sh

bench: build ## compare with native commands and Lua scripts; fails at a regression (ARGS="...")
	cargo build --release --example relay
	cargo bench --bench corral -- $(ARGS)

lint: ## check the format, run clippy and shellcheck
	scripts/setup.sh lint
	scripts/lint.sh

fmt: ## format the code
	cargo fmt

demo: build ## show four problems without Corral and with it, in the terminal
	scripts/demo.sh

clean: ## remove the build output (not the servers of test-matrix, see scripts/servers.sh)
	cargo clean
