# Trireme. `make` alone lists what can be made.

# One target directory outside the checkout, so that clones share what is compiled.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/trireme/target
export PATH := $(HOME)/.cargo/bin:$(PATH)
DATA ?= /var/lib/trireme/up
SERVERS ?= 3
NODES ?= 2
TRIREME = $(CARGO_TARGET_DIR)/release/trireme
SUDO = $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help setup build up down status test test-long bench fmt

help:
	@echo 'make up         build, and run a cluster on this machine: $(SERVERS) servers, $(NODES) nodes, a sample'
	@echo 'make down       end it, and remove every trace of it'
	@echo 'make status     how it is'
	@echo 'make test       everything that CI runs'
	@echo 'make test-long  what takes longer: fuzzing, many simulation seeds, measurements'
	@echo 'make bench      measurements beside etcd and Envoy, and of the mesh at size (bench.sh store|proxy|mesh: one of them)'
	@echo 'make setup      install what is missing (Debian, Ubuntu), saying what and why'

setup:
	@scripts/setup.sh build run

build: setup
	@scripts/build.sh

up: build
	@$(SUDO) $(TRIREME) up --servers $(SERVERS) --nodes $(NODES) --data $(DATA)

down:
	@if [ -x $(TRIREME) ]; then $(SUDO) $(TRIREME) down --data $(DATA); \
	else echo 'make down: nothing was built here, so nothing of it runs from $(CARGO_TARGET_DIR)'; fi

status:
	@$(SUDO) $(TRIREME) status --data $(DATA)

test:
	@scripts/test.sh

test-long:
	@scripts/test.sh long

bench: build
	@scripts/bench.sh

fmt:
	cargo fmt --all
