# The entry points; `make` alone lists them.
.PHONY: help deps build test bench instructions demo fmt lint doc testdata

help:
	@echo 'make demo      build, replay a capture, then archive live connections between two namespaces (live part: as root)'
	@echo 'make test      all tests (privileged ones skip, loudly, without root)'
	@echo 'make bench     what each stage, a flow and compression cost, in time and memory'
	@echo 'make instructions    instructions of each stage, compared with those that were kept'
	@echo 'make build     target/release/flowarc'
	@echo 'make fmt lint doc testdata    format; clippy; documentation; check that testdata/ is what its generator writes'

deps:
	@scripts/install-deps.sh

build: deps
	cargo build --release

test: deps
	cargo test --workspace --no-fail-fast

bench: deps
	cargo bench

instructions: deps
	@scripts/instructions.sh

demo: deps
	@scripts/demo.sh

fmt:
	cargo fmt --all

lint:
	cargo clippy --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

testdata:
	python3 testdata/generate.py --check
