# The way in: everything that a person or CI runs has a name here, and `make help` tells them.
# One profile (--release) for programs, tests and benches, so that dependencies are compiled once.
# What needs root (network namespaces, iptables) runs under sudo, and only that, when an ordinary user calls it.

CARGO ?= cargo
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help build setup-run setup setup-k8s demo test test-k8s bench fuzz lint clean

help:            ## these lines
	@sed -n 's/^\([a-z0-9-]*\): .*## */\1\t/p; s/^\([a-z0-9-]*\): *## */\1\t/p' Makefile | sort -u | expand -t 12

setup-run:
	@scripts/setup.sh run
setup:           ## install what building, testing, demo and bench need and this machine lacks
	@scripts/setup.sh all

setup-k8s:
	@scripts/setup.sh k8s

build: setup-run ## programs to target/release/, example filters to target/filters/
	$(CARGO) build --release --locked --workspace
	scripts/build-filters.sh --rust

demo: build      ## see it work: a pod, a filter, your program, and who answers which request
	@scripts/demo.sh

test: setup build ## all tests, and every command of the README
	@scripts/test.sh

test-k8s: setup-k8s build ## the tests on a Kubernetes node that is made for them (needs root; the first time half an hour)
	@scripts/test-k8s.sh

bench: setup build ## what a request costs: nginx, haproxy and the agent side by side (BENCH=--help)
	$(CARGO) bench --locked --workspace --bench filters --bench table
	bench/bench.py $(BENCH)

fuzz: setup      ## feed every parser of a peer's bytes what nobody would send, ten minutes each (FUZZ="5 relay")
	scripts/fuzz.sh $(FUZZ)

lint: setup      ## formatting, clippy, shellcheck; a warning is an error
	@scripts/lint.sh

clean:           ## remove target/ (what was installed stays)
	$(CARGO) clean
	rm -rf examples/filters/target
