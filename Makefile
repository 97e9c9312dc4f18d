# Two commands do everything: `make demo` and `make test`. Needed: Python 3.11 or later, and make.

PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; done)
BIN := .venv/bin
READY := .venv/ready
AUDITOR := .venv-auditor/ready
LOCKS := requirements/dev.txt requirements/build.txt
# What covers the verifier, every branch of it; and what wears it down, which takes longer and proves no branch.
ALONE := tests/verifier tests/test_specs.py
ENDURANCE := tests/verifier/test_fuzz.py tests/verifier/test_mutation.py tests/verifier/test_fuzz_targets.py \
	tests/verifier/test_differential.py
# A lock holds what the public index serves: no setting of this machine's pip enters it.
COMPILE := env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL -u PIP_INDEX_URL PIP_CONFIG_FILE=/dev/null \
	$(BIN)/pip-compile --quiet --no-config --upgrade --generate-hashes --allow-unsafe --strip-extras \
	--no-emit-index-url --no-emit-find-links

.DEFAULT_GOAL := help
.PHONY: help venv demo test nightly up check format lint types vectors bench fuzz interop verifier lock clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

venv: $(READY) ## set up .venv from the hash-locked requirements (once)

$(READY): pyproject.toml $(LOCKS) requirements/bootstrap.py
	@test -n "$(PYTHON)" || { echo "tally: no Python 3.11 or later found; name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) requirements/bootstrap.py

$(AUDITOR): $(READY) requirements/base.txt $(wildcard verifier/*.py verifier/*/*.py)
	@$(BIN)/python requirements/bootstrap.py auditor

demo: $(READY) $(AUDITOR) ## run the main job end to end, with real processes; leaves demo-out/
	@$(BIN)/python -m examples.demo

test: $(READY) $(AUDITOR) ## run all tests, and show what they cover
	@$(BIN)/coverage run --source verifier -m pytest $(ALONE) $(ENDURANCE:%=--ignore=%)
	@$(BIN)/coverage report --fail-under=100
	@$(BIN)/python -m pytest --numprocesses 4 --dist loadfile tests $(ALONE:%=--ignore=%) $(ENDURANCE)

nightly: $(READY) ## hold the two decisions equal over 100,000 cases; flip every byte of the rich bundle; kill scope in 1,000 job lives
	@TALLY_NIGHTLY=1 $(BIN)/python -m pytest tests/verifier/test_two_decisions.py tests/verifier/test_mutation.py \
		tests/scope/test_endurance.py

up: $(READY) ## start the three services in .tally (made when missing), with one signed example policy
	@$(BIN)/python -m examples.up

check: format lint types vectors test ## format, lint, types, vectors, tests

format: $(READY) ## check the format
	@$(BIN)/ruff format --check .

lint: $(READY) ## lint
	@$(BIN)/ruff check .

types: $(READY) ## check types
	@$(BIN)/mypy

vectors: $(READY) ## check that the generator still makes the vectors in specs/
	@$(BIN)/python -m tests.vectors --check

bench: $(READY) ## measure verification, decision, gateway, registry, tokens, revocation
	@$(BIN)/python -m tests.bench

fuzz: $(READY) ## fuzz every reader of hostile bytes, FUZZ_SECONDS (60) each
	@$(BIN)/python -m tests.fuzz

interop: $(READY) ## hold checkpoints and proofs against Go's (golang-go, golang-golang-x-mod-dev)
	@$(BIN)/python -m tests.interop

verifier: $(READY) ## build the verifier as one file with all that it needs inside, in dist/
	@$(BIN)/python requirements/onefile.py

lock: $(READY) ## renew the locks, hashes included
	@$(COMPILE) --extra services --extra analysis --extra dev --output-file requirements/dev.txt pyproject.toml
	@$(COMPILE) --constraint requirements/dev.txt --output-file requirements/base.txt pyproject.toml
	@$(COMPILE) --constraint requirements/dev.txt --extra services --output-file requirements/services.txt pyproject.toml
	@$(COMPILE) --constraint requirements/dev.txt --output-file requirements/build.txt requirements/build.in

clean: ## remove what was built, .venv included
	@rm -rf .venv .venv-auditor .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist demo-out fuzz-out
