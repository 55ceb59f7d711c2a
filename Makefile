# Every target sets up what it needs; `make help` lists them. The environment lives in .venv and is installed once.
PYTHON ?= python3
DATA ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS := .venv-docs
# By default uv trusts only the certificates that it ships with. pip (since 24.2) also trusts the system's, where a company
# installs that of its TLS proxy, so uv is told to read those too. Without a system store (slim containers) uv would refuse
# to start, so it keeps its own there. UV_SYSTEM_CERTS and SSL_CERT_FILE override this.
SYSTEM_CERTS = $(BIN)/uv --system-certs --offline pip compile --quiet --python $(BIN)/python - </dev/null >/dev/null 2>&1
UV = UV_SYSTEM_CERTS=$${UV_SYSTEM_CERTS:-$$($(SYSTEM_CERTS) && echo true || echo false)} $(BIN)/uv

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-speech demo-text demo-joint pretrain-vision pretrain-speech pretrain-text bench test chaos notebooks docs lint lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## install everything into .venv, once

$(INSTALLED): requirements.lock installer.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "d2v needs Python 3.11 to 3.13, and $(PYTHON) is $$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.12 ..."; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r installer.lock
	@echo "installing into $(VENV)"
	@$(UV) pip sync --quiet --compile-bytecode --require-hashes --python $(BIN)/python requirements.lock
	@$(UV) pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@touch $@

demo: setup ## pretrain on real photographs in about two minutes, and show what was learned
	@$(BIN)/python -m d2v.cli prepare demo vision --output data/demo/vision
	@rm -rf runs/demo-vision
	$(BIN)/d2v fit --config demo/vision.yaml --run_name demo-vision $(ARGS)
	$(BIN)/d2v probe --checkpoint runs/demo-vision --checkpoint random --config demo/vision.yaml --output runs/demo-vision/media

demo-speech: setup ## the same on speech, in about five minutes: pretrain, probe, recognise
	@$(BIN)/python -m d2v.cli prepare demo speech --output data/demo/speech
	@rm -rf runs/demo-speech runs/demo-speech-ctc runs/demo-speech-ctc-untrained
	$(BIN)/d2v fit --config demo/speech.yaml --run_name demo-speech $(ARGS)
	@echo "--- which voice is it? and which digit, said by voices that are nowhere in training?"
	$(BIN)/d2v probe --checkpoint runs/demo-speech --checkpoint random --config demo/speech.yaml --max_samples 480 --output runs/demo-speech/media
	$(BIN)/d2v probe --checkpoint runs/demo-speech --checkpoint random --config demo/speech.yaml --config demo/speech_digits.yaml
	@echo "--- recognition of digits, letter by letter: from the pretrained encoder, and from the same network without pretraining"
	$(BIN)/d2v fit --config demo/speech_ctc.yaml --run_name demo-speech-ctc $(ARGS)
	$(BIN)/d2v fit --config demo/speech_ctc.yaml --config demo/speech_untrained.yaml --run_name demo-speech-ctc-untrained $(ARGS)

demo-text: setup ## the same on text, in about four minutes: docstrings of the installed packages
	@$(BIN)/python -m d2v.cli prepare demo text --output data/demo/text
	@rm -rf runs/demo-text
	$(BIN)/d2v fit --config demo/text.yaml --run_name demo-text $(ARGS)
	@echo "--- which package is the text about?"
	$(BIN)/d2v probe --checkpoint runs/demo-text --checkpoint random --config demo/text.yaml --config demo/text_labels.yaml --output runs/demo-text/media

demo-joint: setup ## one model for pictures, speech and text, in about eight minutes, and search from one to the other
	@$(BIN)/python -m d2v.cli prepare demo joint --output data/demo/joint
	@rm -rf runs/demo-joint
	$(BIN)/d2v fit --config demo/joint.yaml --run_name demo-joint $(ARGS)
	@echo "--- from the one checkpoint: which photograph is it, which voice, and which package is the text about?"
	$(BIN)/d2v probe --checkpoint runs/demo-joint --modality vision --config demo/vision.yaml --data.root data/demo/joint/vision --max_samples 1000
	$(BIN)/d2v probe --checkpoint runs/demo-joint --modality speech --config demo/speech.yaml --data.root data/demo/joint/speech
	$(BIN)/d2v probe --checkpoint runs/demo-joint --modality text --config demo/text.yaml --config demo/text_labels.yaml --data.root data/demo/joint/text/labelled
	@echo "--- 200 digits, each written, spoken and named in a sentence, make one space; tested on other people, voices and sentences"
	$(BIN)/d2v align --checkpoint runs/demo-joint --pairs data/demo/joint/pairs.tsv --num_pairs 200 --test data/demo/joint/test.tsv --label label --baseline
	@echo "--- a spoken seven, and the handwritten digits that are nearest"
	$(BIN)/d2v embed --checkpoint runs/demo-joint --modality vision --space shared --input data/demo/joint/digits/val --output runs/demo-joint/digits.parquet
	$(BIN)/d2v search runs/demo-joint/digits.parquet --checkpoint runs/demo-joint --modality speech --query data/demo/joint/speech/digits/val/SEVEN/9018-SEVEN-00.flac --picture runs/demo-joint/media/seven.png

pretrain-vision: setup ## the published 2.0 recipe on an ImageNet folder: make pretrain-vision DATA=/path/to/imagenet
	@test -n "$(DATA)" || { echo "name the pictures: make pretrain-vision DATA=/path/to/imagenet (a folder with train/ and val/)"; exit 2; }
	$(BIN)/d2v fit --config v2/vision.yaml --data.root "$(DATA)" $(ARGS)

pretrain-speech: setup ## the published 2.0 recipe on a LibriSpeech folder: make pretrain-speech DATA=/path/to/LibriSpeech
	@test -n "$(DATA)" || { echo "name the speech: make pretrain-speech DATA=/path/to/LibriSpeech (the folder with train-clean-100/, ...)"; exit 2; }
	$(BIN)/d2v fit --config v2/speech.yaml --data.root "$(DATA)" $(ARGS)

pretrain-text: setup ## the published 2.0 recipe on a folder of text: make pretrain-text DATA=/path/to/text
	@test -n "$(DATA)" || { echo "name the text: make pretrain-text DATA=/path/to/text (a folder of .txt, .jsonl, .parquet, ..., or what d2v prepare text wrote)"; exit 2; }
	$(BIN)/d2v fit --config v2/text.yaml --data.root "$(DATA)" $(ARGS)

bench: setup ## how fast the recipes of the demos train here, and where the time goes
	for name in vision speech text; do \
		$(BIN)/d2v bench --config demo/$$name.yaml --precision 32 --steps 5 --peers --output runs/bench/$$name $(ARGS) || exit $$?; \
	done

test: setup ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)  # each process on a core of its own, the slow files first

chaos: setup ## at full count: kills and what they change, random configs, thousands of steps
	D2V_CHAOS=1 $(BIN)/python -m pytest tests/chaos -n 2 --dist worksteal --timeout 3000 --durations 0 $(ARGS)

notebooks: setup ## make the notebooks from their scripts
	$(BIN)/jupytext --quiet --to ipynb notebooks/*.py

# Zensical colours its messages also in a log, and ends a failed build with a traceback of its own: neither is shown.
docs: $(DOCS)/.installed ## build the documentation into site/, with warnings as errors
	$(BIN)/python docs/stage.py build/site
	@$(DOCS)/bin/zensical build --strict --clean >build/site.log 2>&1; code=$$?; \
		sed -e 's/\x1b\[[0-9;]*m//g' -e '/^Traceback/,$$d' build/site.log; \
		if [ $$code != 0 ] || grep -q '^griffe:' build/site.log; then echo "the site has warnings"; exit 1; fi
	@echo "open site/index.html"

$(DOCS)/.installed: docs.lock $(INSTALLED)
	@$(UV) venv --quiet --clear --python $(BIN)/python $(DOCS)
	@$(UV) pip sync --quiet --require-hashes --python $(DOCS)/bin/python docs.lock
	@touch $@

lint: setup ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: setup ## resolve the dependencies anew: versions and hashes only
	$(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 --group dev pyproject.toml -o requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 --group docs --no-header -o docs.lock
	echo "uv==$$($(BIN)/uv --version | cut -d' ' -f2)" | $(UV) pip compile --quiet --generate-hashes --no-header --no-annotate - -o installer.lock

clean: ## remove the environment and what tools left behind; data and runs stay
	rm -rf $(VENV) $(DOCS) build site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
