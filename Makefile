# Needs Python 3.11 to 3.13 with pip, make and a C++ compiler; everything else is set up in .venv.

PYTHON ?= python3
BIN := .venv/bin
SETUP := $(PYTHON) docker/environment.py

# Versions stay as they are unless asked otherwise: make requirements UPGRADE=--upgrade
UPGRADE ?=
COMPILE = "$$uv" pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-annotate --no-emit-package horovod --custom-compile-command "make requirements" $(UPGRADE)

.DEFAULT_GOAL := help
.PHONY: help train test soak image image-gpu cluster-test check format docs requirements reference clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 20

train: ## train a U-Net on generated images with two workers, about two minutes
	@$(SETUP) --group cpu
	@$(BIN)/distrain launch -n 2 -- train launch/jobs/circles.yaml --fresh

test: check ## all checks and tests
	$(BIN)/pytest -n 2
	# A file's tests share what is costly to make.
	$(BIN)/pytest -n 2 --dist loadfile -m "processes and not soak"

soak: check ## a hundred seeded faults against real worlds, compared with runs never touched; an hour and more
	$(BIN)/pytest -m soak
	$(BIN)/python -m tests.faults.soak

image: ## build the image for CPUs, with docker, buildah or podman
	docker/image.sh cpu

image-gpu: ## build the image for GPUs
	docker/image.sh gpu

cluster-test: ## a launcher and workers as hosts of their own, from the image, and a Slurm cluster; as root
	@$(SETUP) --group dev
	$(BIN)/pytest -m clusters

check: ## format, lint and types
	@$(SETUP) --group dev --extras
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: ## rewrite the sources in the project's format
	@$(SETUP) --group dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

requirements: ## write requirements/*.txt anew from pyproject.toml
	uv=$$($(SETUP) --print-uv) && \
	$(COMPILE) --extra cpu pyproject.toml -o requirements/cpu.txt && \
	$(COMPILE) --extra gpu pyproject.toml -c requirements/cpu.txt -o requirements/gpu.txt && \
	$(COMPILE) --extra cpu --group dev pyproject.toml -c requirements/cpu.txt -o requirements/dev.txt && \
	$(COMPILE) --extra s3 --extra gcs --extra http --extra mlflow --extra wandb pyproject.toml \
		-c requirements/dev.txt -o requirements/extras.txt && \
	$(COMPILE) --extra cpu --group docs pyproject.toml -c requirements/dev.txt -o requirements/docs.txt && \
	$(COMPILE) --group build -c requirements/cpu.txt -o requirements/build.txt && \
	$(COMPILE) --group build-gpu -c requirements/gpu.txt -c requirements/build.txt -o requirements/build-gpu.txt && \
	$(COMPILE) --group uv -o requirements/uv.txt

reference: ## write docs/job.md, job.schema.json and command-line.md anew from the program
	@$(SETUP) --group dev
	$(BIN)/python -m distrain.job.reference docs
	$(BIN)/python -m distrain.cli.reference docs

docs: ## build the documentation's site in build/site; a broken link is an error
	@$(SETUP) --group docs
	$(BIN)/sphinx-build -q -E -W --keep-going -c docs -d build/doctrees . build/site

clean: ## remove the environment and the caches of the tools, never runs
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build distrain.egg-info
	find distrain docker tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
