# make demo and make test do all the set-up, on a machine with git, make and Python >= 3.11.
.PHONY: demo test test-slow test-fuzz test-faults test-install test-lowest test-newest lint lock agreement \
	accuracy bench bench-engines bench-networks bench-optimizers bench-plan bench-transfer determinism repeat soak \
	figures reports docs clean

VENV := .venv
# what the tests of a file share is compiled once
IN_PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

demo: $(VENV)/installed
	$(BIN)/kipx distill

test: $(VENV)/installed
	$(BIN)/python -m pytest $(IN_PARALLEL)

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest $(IN_PARALLEL) -m slow

# random commands, data and run folders, minutes of them; writes docs/results/fuzz.json and a part of a page
test-fuzz: $(VENV)/installed
	PYTHONPATH=benchmarks $(BIN)/python -W ignore tests/fuzz.py docs/results/fuzz.json docs/reliability.md

# the wheel, in an empty environment elsewhere
test-install: $(VENV)/installed
	$(BIN)/python tests/install.py

# the default tests on the lowest, and on the newest, versions that setup.cfg allows
test-lowest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-lowest test-newest: test-%: $(VENV)/installed
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) build/$*
	$(BIN)/uv pip install --quiet --compile-bytecode --python build/$*/bin/python --resolution $(RESOLUTION) \
		--override requirements.overrides --editable '.[dev,oracle,pool,launchers,ray-launcher]'
	build/$*/bin/python -m pytest $(IN_PARALLEL)

# kills, full disks, wrong bytes, jumping clocks, two at once; 40 minutes
test-faults: $(VENV)/installed
	PYTHONPATH=tests:benchmarks $(BIN)/python -m faults docs/results/reliability.json docs/reliability.md

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

agreement: $(VENV)/installed
	$(BIN)/python benchmarks/agreement.py docs/agreement.md

accuracy: $(VENV)/installed
	$(BIN)/python benchmarks/accuracy.py docs/accuracy.md

bench: $(VENV)/installed
	$(BIN)/python benchmarks/kernel.py docs/results/kernel.json docs/performance.md

bench-engines: $(VENV)/installed
	$(BIN)/python benchmarks/engines.py docs/results/engines.json docs/scaling.md

bench-optimizers: $(VENV)/installed
	$(BIN)/python benchmarks/optimizers.py docs/results/optimizers.json docs/optimizers.md

bench-networks: $(VENV)/installed
	$(BIN)/python benchmarks/networks.py docs/results/networks.json docs/networks.md

bench-plan: $(VENV)/installed
	$(BIN)/python benchmarks/plan.py docs/results/plan.json docs/scaling.md

bench-transfer: $(VENV)/installed
	$(BIN)/python benchmarks/transfer.py docs/results/transfer_speed.json docs/transfer_speed.md

# the same run twice under every engine
determinism: $(VENV)/installed
	$(BIN)/python benchmarks/determinism.py docs/results/determinism.json docs/reliability.md

# 2,000 steps of the demo, stopped and resumed every 100: memory, files, processes
soak: $(VENV)/installed
	$(BIN)/python benchmarks/soak.py docs/results/soak.json docs/reliability.md

# the commands of docs/results.md, their first steps, and the published sets, measured again; goes on where it was stopped
repeat: $(VENV)/installed
	$(BIN)/python benchmarks/repeat.py docs/results/repeated.jsonl docs/repeated.md

# Figures 1 to 4 of the paper on digits; goes on where it was stopped
figures: $(VENV)/installed
	$(BIN)/python benchmarks/figures.py

# report.html of the demo and of a sweep, and their pictures in docs/
reports: $(VENV)/installed
	$(BIN)/python benchmarks/reports.py docs

# the site, into build/docs
docs: $(VENV)/installed
	$(BIN)/python -m sphinx --quiet --fresh-env --fail-on-warning --keep-going -d build/doctrees docs build/docs

$(VENV)/installed: requirements.lock setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "kipx needs Python >= 3.11; set PYTHON=<path>"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Without TensorFlow, which neural-tangents asks for and kipx does not need: requirements.overrides says so.
lock: $(VENV)/installed
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--extra dev --extra oracle --extra pool --extra launchers --extra ray-launcher --extra docs \
		--override requirements.overrides setup.cfg -o requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
