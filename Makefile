# SPDX-License-Identifier: GPL-2.0-or-later
# Two commands for a newcomer: `make vm` opens a guest, `make test` runs everything.
# Each target does its own set-up and prints the command that it runs.

SHELL := /bin/sh
VENV := .venv
VNIC := $(VENV)/bin/vnic

.PHONY: help setup setup-test vm vm-compiled test check unit test-vm conformance bench bench-compiled fuzz clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|'

setup: ## Debian packages (as root or with sudo) and .venv; a second run does nothing
	@tools/setup

setup-test:
	@tools/setup --test

vm: setup ## open a guest whose network card is vnic (options: make vm ARGS='--machine q35 --net stream')
	@echo "$(VNIC) vm $(ARGS)"
	@exec $(VNIC) vm $(ARGS)

vm-compiled: setup ## the same with the stack compiled by mypyc (compiling takes minutes once; no call tree)
	@tools/compile
	@echo "PYTHONSAFEPATH=1 PYTHONPATH=build/compiled:. $(VNIC) vm $(ARGS)"
	@PYTHONSAFEPATH=1 PYTHONPATH="$(CURDIR)/build/compiled:$(CURDIR)" exec $(VNIC) vm $(ARGS)

test: setup-test ## everything: lint, types, import contracts, unit, simulation, fuzz and real-VM tests
	@tools/check --all

check: setup-test ## everything that needs no guest
	@tools/check --no-vm

unit: setup-test ## unit, simulation and fuzz tests only
	@tools/check --unit

test-vm: setup-test ## the real-VM tests only
	@tools/check --vm

conformance: setup ## write docs/conformance.md: the facts measured on Linux, and whether the tests of each hold
	@tools/conformance

bench: setup ## vnic over vhost-user and stream against QEMU's user networking, in turn, each in a guest of one image
	@echo "$(VENV)/bin/python -m bench $(ARGS)"
	@exec $(VENV)/bin/python -m bench $(ARGS)

bench-compiled: setup ## the same, with the compiled stack and with no stack at all (compiling takes minutes once)
	@tools/compile
	@echo "$(VENV)/bin/python -m bench --compiled --ceiling $(ARGS)"
	@exec $(VENV)/bin/python -m bench --compiled --ceiling $(ARGS)

fuzz: setup ## look for inputs that break the device's parsers, with atheris, for FUZZ_SECONDS (60) in all
	@$(VENV)/bin/python -c 'import atheris' 2>/dev/null || \
	  $(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[fuzz]' || true
	@echo "$(VENV)/bin/python tools/fuzz $(ARGS)"
	@exec $(VENV)/bin/python tools/fuzz $(ARGS)

clean: ## remove .venv, caches of the checks and artifacts of failed tests (the image cache stays: vnic image prune)
	rm -rf $(VENV) artifacts build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
