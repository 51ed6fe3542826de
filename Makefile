# make demo   watch the simulated arm do a task from camera images
#             (TASK=push, TASK=pick_and_place; GUI=1 opens a window)
# make test   lint and all tests
# Both set up a virtual environment first. ROS 2 comes from wheels: none need be installed.

PYTHON ?= python3
VENV   ?= .venv
GUI    ?=
TASK   ?= reach
BIN     = $(VENV)/bin
# What has deadlines to keep shares no processor; what runs in lock-step has none.
REALTIME = $(filter-out %_in_lockstep.py,$(wildcard tests/nodes/test_*.py)) tests/launch
# An agent of eight processes that does not come to what is waited for is tried once more, and told:
# on a busy machine one of about a hundred does not, and why is not known yet.
PATIENT = -raR --reruns 1 --only-rerun AgentTimeout
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

# What a sourced ROS 2 or another environment sets would mix its packages with ours.
unexport PYTHONPATH AMENT_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE RMW_IMPLEMENTATION ROS_DISTRO

.PHONY: demo test lint format clean

demo: $(VENV)/.run-time
	$(BIN)/jepa-robot demo --task $(TASK) $(if $(filter-out 0,$(GUI)),--gui)

test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(REALTIME:%=--ignore %)
	$(BIN)/python -m pytest $(PATIENT) $(REALTIME)

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build out runs *.egg-info

$(VENV)/.run-time: setup.py constraints.txt
	@echo "setting up $(VENV) (once)"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[ros]'
	@touch $@

$(VENV)/.development: $(VENV)/.run-time
	@echo "adding what development needs to $(VENV) (once)"
	$(INSTALL) -e '.[ros,dev]'
	@touch $@
