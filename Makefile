# Three commands: `make demo` runs the whole loop at tiny size, `make demo-real` on a real model of 135M parameters, `make test`
# runs all tests. Each sets up the environment first.
PYTHON ?= python3.11
PYTHON_NEXT ?= python3.12
MCORE_TESTS := $(addprefix tests/,pipeline/test_trainer.py pipeline/test_trainer_kills.py pipeline/test_convert_layouts.py \
	pipeline/test_saving.py pipeline/test_reference.py pipeline/test_shared_prefix.py pipeline/test_lean_import.py \
	unit/test_training.py unit/test_convert.py unit/test_meta_layouts.py unit/test_layout.py unit/test_batches.py \
	unit/test_optimizer_state.py unit/test_accelerator.py unit/test_batch_layout.py unit/test_target_logits.py)
VENV := .venv
BIN := $(VENV)/bin
PINS := tools/requirements
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
PIN := $(BIN)/pip install -qq -c $(PINS)/constraints.txt
PIN_NEXT := $(VENV)-mcore-next/bin/pip install -qq -c $(PINS)/constraints.txt
STAMP := $(VENV)/.installed
GPU_VENV := .venv-gpu
GPU_BIN := $(GPU_VENV)/bin
GPU_STAMP := $(GPU_VENV)/.installed
# $(call needs,VERSIONS,VARIABLE): stops with one line unless the interpreter that VARIABLE (PYTHON) names is one of these
needs = @$($(or $(2),PYTHON)) -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] not in "$(1)".split())' 2>/dev/null \
	|| { echo "needs Python $(1): $($(or $(2),PYTHON)) is not there or another version; name one with $(or $(2),PYTHON)=/path/to/python" >&2; exit 2; }
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help venv venv-light venv-gpu demo demo-real demo-slurm doctor test test-fast test-gpu test-mcore-next lint resolve bench clean unfinished-gpu

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

venv: $(STAMP) ## only the environment, in .venv

# The CPU build of torch first: on the public package index a plain `torch` is the CUDA build.
$(STAMP): $(wildcard $(PINS)/*.txt) pyproject.toml
	$(call needs,3.11)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned environment into $(VENV) (about 3 minutes, 2.6 GB; once)"
	@$(PIN) -r $(PINS)/cpu-torch.txt 2>/dev/null || $(PIN) --index-url $(TORCH_CPU_INDEX) -r $(PINS)/cpu-torch.txt
	@$(PIN) -r $(PINS)/cpu.txt
	@$(BIN)/pip install -qq --no-deps -r $(PINS)/cpu-nodeps.txt
	@$(BIN)/pip install -qq --no-deps --no-build-isolation -e .
	@touch $(STAMP)

venv-light: ## only the light commands (plan, submit, status), in .venv: for login nodes; Python 3.11 to 3.13
	$(call needs,3.11 3.12 3.13)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIN) -r $(PINS)/light.txt -e .

venv-gpu: $(GPU_STAMP) ## the GPU environment, in .venv-gpu: Python 3.11 or 3.12, CUDA 13; Transformer Engine is compiled

$(GPU_STAMP): $(wildcard $(PINS)/*.txt) pyproject.toml tools/build_transformer_engine.sh
	$(call needs,3.11 3.12)
	@test -x $(GPU_BIN)/python || $(PYTHON) -m venv $(GPU_VENV)
	@echo "installing the pinned GPU environment into $(GPU_VENV) (about 12 GB), then compiling Transformer Engine's binding"
	@$(GPU_BIN)/pip install -qq -c $(PINS)/constraints.txt -c $(PINS)/gpu-constraints.txt -r $(PINS)/gpu.txt
	@tools/build_transformer_engine.sh $(GPU_BIN)/python
	@$(GPU_BIN)/pip install -qq --no-deps --no-build-isolation -e .
	@touch $(GPU_STAMP)

demo: venv ## the whole loop M0 -> M1 -> M2 -> M3 on the tiny world; prints a table and the path of a report
	@$(BIN)/nemo-srlm run --config-name tiny $(ARGS)

demo-real: venv ## the loop on SmolLM2-135M-Instruct and real English, with a control arm; DATA=trees.jsonl takes your own data
	@tools/demo_real.sh $(ARGS)

demo-slurm: venv ## the same on a temporary real Slurm on this machine (packages: docs/slurm.md)
	@tools/demo_slurm.sh $(ARGS)

doctor: $(if $(wildcard $(GPU_STAMP)),venv-gpu,$(if $(wildcard $(GPU_VENV)),unfinished-gpu,venv)) ## is this machine fit: what is installed, short checks of training, resuming, conversion, vLLM
	@$(if $(wildcard $(GPU_STAMP)),$(GPU_BIN),$(BIN))/nemo-srlm doctor $(ARGS)

unfinished-gpu:
	@echo "$(GPU_VENV) is not finished: run \`make venv-gpu\` again, or remove $(GPU_VENV) to check with $(VENV)" >&2; exit 2

# Three workers on two cores: the tests of tests/slurm mostly wait.
test: venv ## all tests but those on GPUs, and the 25 slowest
	@$(BIN)/python -m pytest --ignore=tests/gpu -n 3 --no-loadscope-reorder --durations=25 $(ARGS)

test-gpu: venv-gpu ## every check of `make doctor` and the trainer's and vLLM's tests on this machine's GPUs, in .venv-gpu
	@$(GPU_BIN)/python -m pytest tests/gpu $(ARGS)

test-fast: venv ## unit tests and rules
	@$(BIN)/python -m pytest -n 2 --no-loadscope-reorder tests/unit tests/rules $(ARGS)

# The newest megatron-core needs Python 3.12. Training and conversion only: no vLLM in this environment.
test-mcore-next: ## the training and conversion tests with megatron-core 0.19 on Python 3.12, in .venv-mcore-next
	$(call needs,3.12,PYTHON_NEXT)
	@test -x $(VENV)-mcore-next/bin/python || $(PYTHON_NEXT) -m venv $(VENV)-mcore-next
	@cd $(PINS) && grep -hvE '^(-r |megatron-core==)' light.txt train.txt dev.txt cpu.txt | cat - mcore-next.txt > $(CURDIR)/$(VENV)-mcore-next/requirements.txt
	@sed 's/+cpu$$//' $(PINS)/cpu-torch.txt > $(VENV)-mcore-next/torch.txt
	@$(PIN_NEXT) -r $(PINS)/cpu-torch.txt 2>/dev/null || $(PIN_NEXT) --index-url $(TORCH_CPU_INDEX) -r $(PINS)/cpu-torch.txt || $(PIN_NEXT) -r $(VENV)-mcore-next/torch.txt
	@$(PIN_NEXT) -r $(VENV)-mcore-next/requirements.txt
	@$(VENV)-mcore-next/bin/pip install -qq --no-deps --no-build-isolation -e .
	@$(VENV)-mcore-next/bin/python -m pytest -n 0 $(MCORE_TESTS) $(ARGS)

lint: venv ## ruff, mypy, hadolint
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/hadolint containers/train.Dockerfile

resolve: venv ## whether all pinned sets still resolve, from the index's metadata alone
	@$(BIN)/python tools/resolve.py $(ARGS)

bench: venv ## the benchmarks of tools/bench, at reduced size
	@for f in tools/bench/*.py; do echo "== $$f"; $(BIN)/python $$f --quick || exit 1; done

clean: ## removes .venv, .venv-gpu and runs/
	rm -rf $(VENV) $(GPU_VENV) runs
