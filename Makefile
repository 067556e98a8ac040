# The package without a ROS installation: every target does its own set-up in .venv, from nothing but Python 3.11 (or
# 3.12), its venv module and g++. ROS 2 itself comes as PyPI wheels. In a ROS workspace use colcon instead (README).
#
#   make demo     simulate a drive, play it over DDS into the node, write out/demo
#   make test     all tests
#   make lint     ruff and mypy
#   make train    train weights like the shipped ones, with curves and tables; interrupted, it goes on where it was
#   make bench    time every stage
#   make figures  bring the README's tables and pictures up to date
#
# PyPI's torch for x86-64 carries CUDA (several GB). On a machine without a GPU ask for the small one:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make setup

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# torch goes first and alone: pip must not let another package choose its version.
TORCH := torch==2.13.0
EXTRAS := ros,dev,train,export,tensorboard

# Nodes of these targets talk to this machine only, in a domain of their own, through shared memory large enough for
# images (Fast DDS's default loses them).
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
export ROS_DOMAIN_ID ?= 87
export ROS_LOG_DIR ?= $(CURDIR)/out/log
export FASTRTPS_DEFAULT_PROFILES_FILE := $(CURDIR)/config/fastdds_shared_memory.xml

.PHONY: setup demo test lint train bench figures clean

setup: $(READY)
	@:

$(READY): setup.py pyproject.toml tools/build_tf2_msgs.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' || { \
	  echo "setup: ROS 2 wheels exist for Python 3.11 and 3.12; $(PYTHON) is $$($(PYTHON) -V 2>&1)." >&2; \
	  echo "       Name another: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "setup: Python's venv module is missing. Debian, Ubuntu: apt install python3-venv" >&2; exit 1; }
	@command -v g++ >/dev/null || { \
	  echo "setup: g++ is missing (tf2_msgs is compiled here). Debian, Ubuntu: apt install g++" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade $(TORCH)
	$(BIN)/pip install --quiet $(TORCH) --editable '.[$(EXTRAS)]'
	$(BIN)/python tools/build_tf2_msgs.py
	@touch $@

demo: setup
	$(BIN)/cvloc demo --out out/demo

# Files of tests run two at a time, for many wait for messages; in their order, for the long ones are not the last.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A run that was interrupted goes on; one that is new has its settings from a file, or the defaults.
run = $(BIN)/cvloc train --out runs/$(1) $(if $(wildcard runs/$(1)/checkpoint.pt),--resume,$(2))
WEIGHTS := cvloc_ros/models/weights

train: setup
	$(call run,vote_flow)
	cp runs/vote_flow/vote_flow.* $(WEIGHTS)/
	$(call run,dense_flow,--method dense_flow)
	cp runs/dense_flow/dense_flow.* $(WEIGHTS)/
	$(call run,dense_flow_from_prior,--config tools/training/dense_flow_from_prior.yaml)
	cp runs/dense_flow_from_prior/dense_flow.png $(WEIGHTS)/dense_flow.from_prior.png
	$(BIN)/cvloc ablate --config tools/training/dense_flow_ablations.yaml --out runs/ablations
	cp runs/ablations/ablations.md $(WEIGHTS)/dense_flow.ablations.md

bench: setup
	$(BIN)/cvloc bench --method vote_flow --method dense_flow --json out/bench.json

figures: demo bench
	$(BIN)/python tools/update_readme.py

clean:
	rm -rf build install log out
