# Needs git, make, g++ and Python 3.11; everything else comes into .venv by `make setup`.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test fuzz formal verilog vivado sim firmware bench zoo resources timing docs lint format

PYTHON ?= python3
TARGET ?= nano
TARGET_NAME = $(basename $(notdir $(TARGET)))
PYTEST_ARGS ?=
TIMING_ARGS ?=
VIVADO_ARGS ?=
ROUTE ?=
FUZZ_SECONDS ?= 3600
FORMAL_ARGS ?=
ZOO_ARGS ?=
BIN := .venv/bin
PACKAGES := cli compiler host hw models sim spec
FUZZERS := tests/compiler/test_fuzz_graphs.py tests/spec/test_bundle_fuzz.py tests/host/test_serving_fuzz.py
STAMP := .venv/.setup-done

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(STAMP)  ## make .venv/ with the moesaic command, and what is C for this machine
	@$(MAKE) -s -j 2 -C firmware native
	@$(MAKE) -s -j 2 -C host/cpu library

$(STAMP): pyproject.toml setup.py constraints.txt
	@.ci/setup $(PYTHON)
	@touch $@

demo: setup  ## trained model -> ONNX -> RTL -> cycle-accurate run -> build/demo/report.{png,html}
	$(BIN)/python -m moesaic.models.demo

test: setup  ## all tests, on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

fuzz: setup  ## look for inputs that break something, for FUZZ_SECONDS in all; prints counts
	@$(MAKE) -s -C firmware fuzz FUZZ_SECONDS=$$(($(FUZZ_SECONDS) / 3))
	FUZZ_SECONDS=$$(($(FUZZ_SECONDS) / 6)) $(BIN)/python -m pytest -q -s $(FUZZERS)

formal: setup  ## prove bus masters, queues and tokens: every property, with its controls
	$(BIN)/python -m tests.formal $(FORMAL_ARGS)

verilog: setup  ## build/rtl/TARGET/top.v
	$(BIN)/python -m moesaic.hw.generate --target '$(TARGET)' -o 'build/rtl/$(TARGET_NAME)'

vivado: setup  ## a project for AMD Vivado: build/vivado/TARGET, TARGET=zcu102, zcu104, kv260 or pynq-z2
	$(BIN)/python -m moesaic.hw.vivado --target '$(TARGET)' -o 'build/vivado/$(TARGET_NAME)' $(VIVADO_ARGS)

sim: setup  ## the cycle-accurate simulator of TARGET
	$(BIN)/python -m moesaic.sim.build --target '$(TARGET)'

firmware:  ## the C driver for every processor, with code sizes; fetches cross compilers
	@$(MAKE) -s -j 2 -C firmware all

bench: setup  ## measure all targets: cycles, estimates, resources, clocks, serving, goals, real weights; 2 to 3 hours
	$(BIN)/python -m moesaic.models.bench --out build/bench
	$(BIN)/python -m moesaic.models.bench.accuracy --models nano --out build/bench
	$(BIN)/python -m moesaic.models.bench.processor --out build/bench
	$(BIN)/python -m moesaic.models.bench.serving --out build/bench
	$(BIN)/python -m pip install --quiet -e '.[real]'
	MOESAIC_REAL=1 $(BIN)/python -m pytest -s tests/pretrained

zoo: setup  ## try architectures of timm, transformers and others: which compile, and why not; hours
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[zoo]'
	$(BIN)/python -m moesaic.models.zoo $(ZOO_ARGS)

resources: setup  ## LUT, FF, DSP and block RAM of TARGET by yosys, block by block
	$(BIN)/python -m moesaic.hw.resources --target '$(TARGET)'

timing: setup  ## longest paths of TARGET by a model of delays, on ECP5 with ROUTE=1 routed; 1 if too slow
	$(BIN)/python -m moesaic.hw.timing --target '$(TARGET)' $(if $(ROUTE),--route) $(TIMING_ARGS)

docs: setup  ## the documents as a site: build/docs/index.html
	$(BIN)/python -m sphinx -E -W --keep-going -q -c docs/site -d build/cache/docs docs build/docs

# Type checkers see the folders under their import names through links.
build/types/moesaic: $(MAKEFILE_LIST)
	@rm -rf $@ && mkdir -p $@
	@ln -s $(addprefix ../../../,$(wildcard api/*.*)) $@
	@for p in $(PACKAGES); do ln -s ../../../$$p $@/$$p; done

lint: setup build/types/moesaic  ## what CI checks besides the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=build/types $(BIN)/lint-imports --no-cache
	$(BIN)/python -m moesaic.spec.generate --check

format: setup  ## rewrite the sources as `make lint` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
