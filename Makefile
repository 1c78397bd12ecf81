# `make` lists what there is to make
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
READY := $(VENV)/.installed
BENCH := $(VENV)/.bench
DOCS := $(VENV)/.docs
PEER := .venv-bench/whisperspeech
DISCOPHON := .venv-bench/discophon
DISCOPHON_PYTHON ?= python3.12
PYTEST := $(BIN)/python -m pytest -q

.DEFAULT_GOAL := help
.PHONY: help venv demo whisper phonetic objectives adapt zoo test test-fast test-all fuzz architecture bench bench-quantizers bench-data bench-train bench-whisper bench-phonetic lines docs export notebooks readme prepare hooks wheel clean

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "make %-16s %s\n", $$1, $$2}'

venv: $(READY)  ## install the package and its tools into .venv

$(READY): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info<(3,11))' 2>/dev/null || \
	  { echo "quantizer needs Python 3.11 or newer, and '$(PYTHON)' is not: try make PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): a few minutes the first time"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(DOCS): $(READY)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

$(BENCH): $(READY)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

$(PEER)/.installed: tests/bench_whisper_requirements.txt tests/bench_whisper_peer_requirements.txt constraints.txt | $(READY)
	@test -x $(PEER)/bin/python || $(BIN)/python -m venv $(PEER)
	@echo "Installing WhisperSpeech into $(PEER): a minute or two"
	@$(PEER)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -r tests/bench_whisper_requirements.txt
	@$(PEER)/bin/python -m pip install -q --disable-pip-version-check --no-deps -r tests/bench_whisper_peer_requirements.txt
	@touch $@

$(DISCOPHON)/.installed:
	@$(DISCOPHON_PYTHON) -c 'import sys; sys.exit(sys.version_info<(3,12))' 2>/dev/null || \
	  { echo "discophon needs Python 3.12 or newer, and '$(DISCOPHON_PYTHON)' is not: try make bench-phonetic DISCOPHON_PYTHON=python3.13" >&2; exit 1; }
	@test -x $(DISCOPHON)/bin/python || $(DISCOPHON_PYTHON) -m venv $(DISCOPHON)
	@echo "Installing discophon and fastabx into $(DISCOPHON): a minute or two"
	@$(DISCOPHON)/bin/python -m pip install -q --disable-pip-version-check discophon==0.2.0 fastabx==0.9.0
	@touch $@

demo: $(READY)  ## train three small quantizers on the packaged recordings
	@rm -rf demo
	$(BIN)/quantizer train consistent-mfcc --out demo/consistent-mfcc
	$(BIN)/quantizer train mfcc-vq --out demo/mfcc-vq
	$(BIN)/quantizer train logmel-vq --out demo/logmel-vq
	@echo "Open demo/*/report.html"

test: $(READY)  ## test the notebooks and the project, in parallel
	@OMP_NUM_THREADS=1 $(PYTEST) -n $(JOBS)

test-fast: $(READY)  ## test the contracts, one run and the command line; under a minute
	@OMP_NUM_THREADS=1 $(PYTEST) -n $(JOBS) tests/test_contract.py tests/test_cli.py tests/test_backbones.py tests/test_public.py

test-all: $(BENCH)  ## the same with everything that is slow, and with what needs a peer to compare with
	@OMP_NUM_THREADS=1 $(PYTEST) -n $(JOBS) --slow

fuzz: $(READY)  ## feed 500,000 damaged files to all readers, in JOBS processes; up to an hour (FUZZ='--surface stores --inputs 2000')
	@OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py --jobs $(JOBS) $(FUZZ)

whisper: $(READY)  ## train semantic tokens through Whisper on the read speech in QUANTIZER_DATA; an hour or two
	@$(BIN)/python tests/read_speech.py build/read_speech
	$(BIN)/quantizer train whisper-vq-512 data.corpus=build/read_speech/manifest.tsv features.model=$(QUANTIZER_DATA)/models/whisper-tiny.en --out runs/whisper-vq-512
	$(BIN)/quantizer evaluate runs/whisper-vq-512 build/read_speech/manifest.tsv --split valid --only words --out runs/whisper-vq-512-measures
	@$(BIN)/python tests/unheard_speech.py build/read_speech
	$(BIN)/quantizer evaluate runs/whisper-vq-512 build/read_speech/noisy.tsv --only words --out runs/whisper-vq-512-noisy
	$(BIN)/quantizer evaluate runs/whisper-vq-512 build/read_speech/prompts.tsv --only words --out runs/whisper-vq-512-prompts

phonetic: $(READY)  ## train phonetic tokens, without and with a teacher, on the read speech in QUANTIZER_DATA, and compare them with k-means; some fifty minutes
	@$(BIN)/python tests/read_speech.py build/read_speech
	$(BIN)/quantizer train consistent-mfcc data.corpus=build/read_speech/manifest.tsv data.batch_size=4 train.epochs=6 --out runs/consistent-mfcc
	$(BIN)/quantizer evaluate runs/consistent-mfcc build/read_speech/manifest.tsv --split valid --only phonetic,abx,leakage --out runs/consistent-mfcc-measures
	$(BIN)/quantizer train phonetic-mfcc data.corpus=build/read_speech/manifest.tsv model.target.features.model=$(QUANTIZER_DATA)/models/whisper-tiny.en --out runs/phonetic-mfcc
	$(BIN)/quantizer evaluate runs/phonetic-mfcc build/read_speech/manifest.tsv --split valid --only phonetic,abx --out runs/phonetic-mfcc-measures
	$(BIN)/quantizer train phonetic-logmel data.corpus=build/read_speech/manifest.tsv model.target.features.model=$(QUANTIZER_DATA)/models/whisper-tiny.en --out runs/phonetic-logmel
	$(BIN)/quantizer evaluate runs/phonetic-logmel build/read_speech/manifest.tsv --split valid --only phonetic,abx,leakage,robustness --out runs/phonetic-logmel-measures

objectives: $(READY)  ## train the same small tokens with every objective on the read speech in QUANTIZER_DATA, and measure them; some two hours (OBJECTIVES='--seeds 3')
	@OMP_NUM_THREADS=1 $(BIN)/python tests/objectives.py $(OBJECTIVES)

adapt: $(READY)  ## train on the English read speech in QUANTIZER_DATA, adapt to Czech, and compare with training on Czech alone; some ten minutes
	@$(BIN)/python tests/read_speech.py build/read_speech
	@$(BIN)/python tests/unheard_speech.py build/read_speech
	$(BIN)/quantizer train mfcc-vq data.corpus=build/read_speech/manifest.tsv train.epochs=60 --out runs/english
	$(BIN)/quantizer adapt runs/english data.corpus=build/read_speech/czech.tsv train.epochs=10 --out runs/czech
	$(BIN)/quantizer train mfcc-vq data.corpus=build/read_speech/czech.tsv train.epochs=10 --out runs/czech-alone
	$(BIN)/quantizer compare runs/czech runs/czech-alone --corpus build/read_speech/czech.tsv --split valid --only signal,robustness --out runs/czech-measures

zoo: $(READY)  ## train all quantizers on the read speech in QUANTIZER_DATA, and measure them; some two hours (ZOO='--seeds 3')
	@OMP_NUM_THREADS=1 $(BIN)/python tests/zoo.py $(ZOO)

bench-quantizers: $(BENCH)  ## time the quantizers against the bare search and a peer; some ten minutes
	@$(BIN)/python tests/bench_quantizers.py nbs/benchmarks/quantizers.json

bench-data: $(BENCH)  ## time loaders, features and extraction against the floor and peers; some ten minutes
	@OMP_NUM_THREADS=1 $(BIN)/python tests/bench_data.py nbs/benchmarks/data.json

bench-train: $(READY)  ## time training: the loop against a bare one, precision, options, batches; some ten minutes
	@OMP_NUM_THREADS=1 $(BIN)/python tests/bench_train.py nbs/benchmarks/training.json

bench-whisper: $(PEER)/.installed  ## time training with Whisper's decoder against WhisperSpeech's; some ten minutes
	@OMP_NUM_THREADS=1 $(BIN)/python tests/bench_whisper.py $(PEER)/bin/python nbs/benchmarks/whisper.json $(if $(QUANTIZER_DATA),$(QUANTIZER_DATA)/models/whisper-tiny.en)
	@$(PEER)/bin/python -m pip install -q --disable-pip-version-check --dry-run --ignore-installed --report build/peer.json 'whisperspeech[dev]==0.8.9' torch==2.13.0
	@$(BIN)/python tests/count_lines.py --peer $$(echo $(PEER)/lib/python3*/site-packages) --report build/peer.json > nbs/benchmarks/lines.md

bench-phonetic: $(READY) $(DISCOPHON)/.installed  ## time the phonetic measures against DiscoPhon's, and ABX against fastabx's, which need Python 3.12; some two minutes
	@OMP_NUM_THREADS=1 $(BIN)/python tests/bench_phonetic.py $(DISCOPHON)/bin/python
	@OMP_NUM_THREADS=1 $(BIN)/python tests/bench_abx.py $(DISCOPHON)/bin/python

bench: bench-quantizers bench-data bench-train bench-whisper  ## all but bench-phonetic

lines: $(READY)  ## count lines of code, by layer, and dependencies; and how the code reads
	@$(BIN)/python tests/count_lines.py

docs: $(DOCS)  ## build the site in _docs, offline
	@rm -rf build/docs
	@$(BIN)/python docs/pages.py build/docs/src
	@$(BIN)/python -m sphinx -q -W --keep-going -c docs -d build/docs/doctrees build/docs/src build/docs/html
	@rm -rf _docs && mv build/docs/html _docs
	@echo "Open _docs/index.html"

export: $(READY)  ## write the package from the notebooks
	@$(BIN)/nbdev-export

notebooks: $(READY)  ## run every notebook in order, keep its outputs, clean it
	@$(PYTEST) nbs --slow --save
	@$(BIN)/nbdev-clean

architecture: $(READY)  ## draw the rooms in ARCHITECTURE.md from the imports
	@$(BIN)/python docs/architecture.py

readme: $(READY)  ## write README.md from nbs/index.ipynb
	@$(BIN)/python docs/pages.py README.md

prepare: export  ## export, run and clean the notebooks, write README.md
	@$(MAKE) --no-print-directory notebooks
	@$(MAKE) --no-print-directory readme

hooks: $(READY)  ## let git merge and clean notebooks
	@mkdir -p $(HOME)/.jupyter  # nbdev expects it
	@$(BIN)/nbdev-install-hooks

wheel: $(READY)  ## build dist/*.whl and dist/*.tar.gz
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist . >/dev/null
	@ls dist

clean:  ## remove what was built; .venv stays
	@rm -rf build dist demo _docs _proc *.egg-info .pytest_cache
