from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evaluation.measures import final_pair, measure


def record(response, *steps, chosen=-1, prompt="asked"):
    steps = [{"prompt": step_prompt, "response": step_response} for step_prompt, step_response in steps]
    return {"prompt": prompt, "response": response, "steps": steps, "chosen": chosen}


@pytest.mark.parametrize(
    ("answer", "pair"),
    [
        (record("one", ("asked", "one")), ("asked", "one")),
        (record("two", ("asked", "one"), ("rewritten", "two")), ("rewritten", "two")),
        # The best step isn't always the last one.
        (record("one", ("asked", "zero"), ("first", "one"), ("second", "two"), chosen=1), ("first", "one")),
        # Two prompts may have got the same answer.
        (record("one", ("asked", "one"), ("first", "one"), ("second", "one"), chosen=1), ("first", "one")),
        # A constructive reply comes from no step.
        (
            record("Let me help otherwise.", ("asked", "one"), ("first", "Let me help otherwise."), chosen=None),
            ("asked", "Let me help otherwise."),
        ),
        # SelfRefine's steps put the same question.
        (record("better", ("asked", "worse"), ("asked", "better")), ("asked", "better")),
    ],
)
def test_the_final_pair_is_the_answer_with_the_prompt_that_it_answers(answer, pair):
    assert final_pair(answer) == pair


class Recorder:
    """Every model at once; risk and direction are of the text's length."""

    def __init__(self):
        self.asked = []

    def assess(self, prompts, responses):
        self.asked.append(list(zip(prompts, responses, strict=True)))
        return [SimpleNamespace(mean={"a": 0.1, "b": len(response) / 100}) for response in responses]

    def risk(self, prompts, responses):
        self.asked.append(list(zip(prompts, responses, strict=True)))
        return np.array([len(prompt) / 100 for prompt in prompts])

    def embed(self, texts):
        return torch.nn.functional.normalize(torch.tensor([[1.0, float(len(text))] for text in texts]), dim=-1)

    def detect(self, responses):
        return [response.startswith("No") for response in responses]


def test_each_answer_gets_its_own_measures():
    models = Recorder()
    answers = [record("asked", ("asked", "asked")), record("No, sorry.", ("rewritten", "No, sorry."))]
    first, second = measure(answers, models, models, models, models)
    assert first == {
        "detector_risk": 0.1,
        "independent_risk": 0.05,
        "independent_risk_as_asked": 0.05,
        "answer_similarity": 1.0,
        "rigid_refusal": False,
    }
    assert (second["detector_risk"], second["independent_risk"]) == (0.1, 0.09)
    assert second["independent_risk_as_asked"] == 0.05  # of "asked", whatever it was rewritten to
    assert second["answer_similarity"] < 1  # to the user's question, not to the rewritten one
    assert second["rigid_refusal"] is True
    of_independent, of_detector = models.asked
    assert of_detector == [("asked", "asked"), ("rewritten", "No, sorry.")]
    assert of_independent == [*of_detector, ("asked", "No, sorry.")]  # the first one is as asked: once is enough
