# `make demo` and `make test` each do their whole set-up on a fresh Debian with Rust and a C compiler.

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# Pingora builds zlib-ng, which needs cmake. The others are the real parts of the tests.
BUILD_TOOLS := cmake
# A tool, and its package where that has another name.
TEST_TOOLS := nginx curl openssl nft:nftables ip:iproute2 unshare:util-linux

.PHONY: demo test check bench deps test-deps build lint deny doc

demo: deps
	cargo run --release -- demo

test: deps test-deps
	cargo test

check: deps lint doc deny

bench: deps
	cargo bench

build: deps
	cargo build --release

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

deny:
	command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check licenses bans sources

deps:
	@for tool in $(BUILD_TOOLS); do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ]; then $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends $$missing; fi

test-deps:
	@for tool in $(TEST_TOOLS); do PATH="$$PATH:/usr/sbin" command -v "$${tool%:*}" >/dev/null || missing="$$missing $${tool#*:}"; done; \
	if [ -n "$$missing" ]; then $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends $$missing; fi
