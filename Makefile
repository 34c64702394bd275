# The entry points; `make` alone lists them.
.PHONY: help build-deps deb-deps demo-deps test-deps package-deps build test bench instructions demo fmt lint doc testdata \
	man container container-test deb deb-test systemd-test deny sbom reproducible

help:
	@echo 'make demo      build, replay a capture, then archive live connections between two namespaces (live part: as root)'
	@echo 'make test      all tests (privileged ones skip, loudly, without root)'
	@echo 'make bench     what each stage, a flow and compression cost, in time and memory'
	@echo 'make instructions    instructions of each stage, compared with those that were kept'
	@echo 'make build     target/release/flowarc'
	@echo 'make man       target/package/man, the manual pages'
	@echo 'make container container-test    the image, without Docker; run it as a container (as root)'
	@echo 'make deb deb-test systemd-test   the package; install, use and purge it in a Debian of its own; boot its services (as root)'
	@echo 'make deny      licences, sources and known defects of the dependencies'
	@echo 'make sbom      target/flowarc.cdx.json, what the program is built of'
	@echo 'make reproducible    build twice in different folders, compare'
	@echo 'make fmt lint doc testdata    format; clippy; documentation; check that testdata/ is what its generator writes'

# Installs what is missing for that purpose, on Debian.
build-deps deb-deps demo-deps test-deps package-deps:
	@scripts/install-deps.sh $(@:-deps=)

build: build-deps
	cargo build --release

test: test-deps
	cargo test --workspace --no-fail-fast

bench: build-deps
	cargo bench --bench '*'

instructions: test-deps
	@scripts/instructions.sh

demo: demo-deps
	@scripts/demo.sh

fmt:
	cargo fmt --all

lint:
	cargo clippy --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

testdata:
	python3 testdata/generate.py --check

man:
	cargo run --quiet -- man target/package/man

container: package-deps
	@deploy/container/build.sh

container-test: package-deps
	@deploy/container/test.sh

deb: deb-deps
	@deploy/debian/build.sh

deb-test: package-deps
	@deploy/debian/test.sh

systemd-test: package-deps
	@deploy/systemd/test.sh

deny:
	@scripts/deny.sh

sbom:
	@scripts/sbom.sh

reproducible:
	@scripts/reproducible.sh
