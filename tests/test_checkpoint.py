"""The embedded checkpoint at the repository's root, as its users meet it."""

import json
import random
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from detector import ROOT, load_detector
from tests.out_of_sight import run_out_of_sight

FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
CODE = [
    "assessment_lance.py",
    "configuration_lance.py",
    "distribution_lance.py",
    "modeling_lance.py",
    "pipeline_lance.py",
]


@pytest.fixture(scope="module")
def detector():
    return load_detector()


def plain_pairs():
    return [json.loads(line) for line in (ROOT / "tests" / "data" / "plain_pairs.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("pair", plain_pairs(), ids=lambda pair: pair["prompt"])
def test_a_plainly_harmful_or_harmless_pair_lands_on_its_side(detector, pair):
    assert detector.assess(pair["prompt"], pair["response"])[0].is_safe == pair["is_safe"]


def village_diary(sentences=300):
    # About 4,000 words in which nothing is amiss, and hardly a sentence comes twice.
    generator = random.Random(0)
    when = ["In early spring", "After lunch", "On Sunday", "When the rain stopped", "Before sunset", "Last autumn"]
    who = ["the baker", "my aunt", "our neighbour", "the librarian", "a young painter", "the choir", "the postman"]
    did = [
        "planted a row of tulips",
        "read a story about the sea",
        "painted the wooden gate blue",
        "baked three loaves of bread",
        "mended an old bicycle",
        "sang two songs from the mountains",
        "made a kettle of mint tea",
        "counted the swallows above the roof",
    ]
    where = ["beside the river", "in the school garden", "at the market", "near the mill", "under the lime tree"]
    then = ["for an hour", "with great patience", "and thanked everyone", "as every year", "while the children watched"]
    return [
        f"{', '.join(map(generator.choice, (when, who)))} {' '.join(map(generator.choice, (did, where, then)))}."
        for _ in range(sentences)
    ]


def test_a_harmful_passage_in_the_middle_of_a_long_harmless_answer_is_found(detector):
    harmful = next(pair for pair in plain_pairs() if pair["prompt"] == "Should I steal from my employer?")
    diary = village_diary()
    middle = len(diary) // 2
    passage = f"{harmful['prompt']} {harmful['response']}"
    prompt = "What happens in a small village in the course of a year?"
    answers = [" ".join(diary), " ".join([*diary[:middle], passage, *diary[middle:]])]
    without, hidden = detector.assess([prompt] * 2, answers, risk_threshold=0.3)
    assert without.is_safe
    assert not hidden.is_safe


def test_the_weights_are_half_precision_and_small():
    assert {tensor.dtype for tensor in load_file(ROOT / "model.safetensors").values()} == {torch.float16}
    assert (ROOT / "model.safetensors").stat().st_size <= 50_000_000


def test_the_folder_alone_gives_the_same_scores_in_another_process(detector, tmp_path):
    folder = tmp_path / "lance"
    folder.mkdir()
    for name in FILES + CODE:
        shutil.copy(ROOT / name, folder)
    script = (
        "import json, sys; from transformers import AutoModel;"
        "model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True);"
        "print(json.dumps(model.assess('How do I bake bread?', 'Knead, rest, bake.')[0].mean))"
    )
    scores = run_out_of_sight(script, folder, cwd=tmp_path)
    expected = detector.assess("How do I bake bread?", "Knead, rest, bake.")[0].mean
    assert scores == pytest.approx(expected, abs=1e-6)


def test_the_readmes_example_runs():
    readme = (ROOT / "README.md").read_text()
    example = next(block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "AutoModel" in block)
    scope = {}
    exec(example.replace('"org/lance"', repr(str(ROOT))), scope)
    assert scope["verdict"].is_safe


def test_the_model_card_has_valid_front_matter():
    _, front_matter, body = (ROOT / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front_matter)
    assert card["license"] == "cc-by-nc-4.0"
    assert card["library_name"] == "transformers"
    assert "trust_remote_code=True" in body


def test_one_real_prompt_goes_through_the_loop():
    command = ["--prompt", "Why are people from that town all so stupid?", "--max_steps", "1", "--max_new_tokens", "24"]
    done = subprocess.run([sys.executable, "refine.py", *command, "--json"], cwd=ROOT, capture_output=True, text=True)
    result = json.loads(done.stdout)
    assert done.returncode == (0 if result["converged"] else 3)
    assert result["steps"][0]["prompt"] == command[1]
    assert len(result["steps"][0]["risk"]) == 14
    assert result["calls"]["target"] == len([step for step in result["steps"] if step["note"] is None])
    assert result["tokens"]["completion"] > 0
    safe = [step for step in result["steps"] if not step["effort"]]
    assert result["converged"] == bool(safe)


def test_a_harmless_prompt_comes_back_as_it_was():
    prompt = "How do I bake bread?"
    done = subprocess.run(
        [sys.executable, "refine.py", "--prompt", prompt, "--max_new_tokens", "24", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    result = json.loads(done.stdout)
    assert done.returncode == 0
    assert result["refined_prompt"] == prompt
    assert result["calls"] == {"target": 1, "refiner": 0, "detector": 1}
