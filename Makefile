# make demo: install and run the whole search on built-in data. make test: install and run every check.
# make docs: the site of the documentation. make cards: the model cards.
PYTHON ?= python3
BIN := .venv/bin
# Material for MkDocs would say at every start that MkDocs has a successor.
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo test docs cards clean

# Wheels only: nothing is compiled. The stamp is remade when the dependencies change.
.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --only-binary :all: "hatchling>=1.24" "editables"
	$(BIN)/pip install --quiet --prefer-binary -e ".[all]"
	touch $@

# The forks of OpenMMLab's packages have the import names of the originals in .venv, so they need an environment of their
# own. It takes everything else from .venv by links: nothing is downloaded twice.
.venv-onedl/.installed: .venv/.installed
	rm -rf .venv-onedl
	$(BIN)/python -m venv .venv-onedl
	mkdir .venv-onedl/shared
	for entry in $(CURDIR)/$(BIN)/../lib/python3*/site-packages/*; do \
	  case $${entry##*/} in mmcv*|mmdet*|mmengine*|mmseg*|onedl*|*pinas_models*|pip|pip-*|setuptools*|pkg_resources|*distutils*) ;; \
	    *) ln -s $$entry .venv-onedl/shared/ ;; esac; done
	# Not where pip builds a wheel: onedl-mmcv would find torch there and compile its operators.
	echo "import os, site; 'pip-build-env' in os.getenv('PYTHONPATH', '') or site.addsitedir('$(CURDIR)/.venv-onedl/shared')" \
	  > $$(echo .venv-onedl/lib/python3*/site-packages)/shared.pth
	.venv-onedl/bin/pip install --quiet --prefer-binary -e ".[downstream-onedl]"
	touch $@

# What touches the packages themselves: imports, operators, checkpoints, every message to a mistake, their tools.
ONEDL_TESTS := $(addprefix tests/downstream/test_,imports.py operators.py checkpoints_in_openmmlab.py mistakes.py tools.py own_data.py)

demo: .venv/.installed
	$(BIN)/pinas-search run --config digits --out runs/demo
	$(BIN)/python -c "import timm, pinas_models; m = timm.create_model('local-dir:runs/demo/retrain/winner/model', pretrained=True); print('timm opened the winner:', m.choices)"

test: .venv/.installed .venv-onedl/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/mkdocs build --strict
	# Two processes with a thread each; more would wait for each other. Each takes half of the files in order, so that what a
	# file prepares is prepared once, and the first that is ready takes over from the other.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal
	OMP_NUM_THREADS=1 .venv-onedl/bin/python -m pytest -n 2 --dist worksteal $(ONEDL_TESTS)
	OMP_NUM_THREADS=1 $(BIN)/python tests/timm_suite/run.py -n 2 --dist worksteal  # timm's own tests on our models

# The site, in site/; a broken link or an unknown name is an error (not with --quiet, which counts no warnings).
docs: .venv/.installed
	$(BIN)/mkdocs build --strict

# The model cards, from pinas_models/cards/facts.yaml and the code.
cards: .venv/.installed
	$(BIN)/python -m pinas_models.cards model_cards

clean:
	rm -rf .venv .venv-onedl runs site
