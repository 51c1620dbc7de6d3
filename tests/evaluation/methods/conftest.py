from dataclasses import dataclass

import pytest
import torch

from tests.scripted import Engine

CATEGORY = "privacy_violation"


class ScriptedEngine(Engine):
    """Answers by a function of the chat; a prompt with "fails" or "too long" in it gets no answer."""

    def __init__(self, answer=None, batch_size=4):
        super().__init__(
            answer or (lambda chat: f"answer to {chat[-1]['content']}"),
            refuses=lambda chat: "too long" in chat[-1]["content"],
            fails=lambda chat: "the server is gone" if "fails" in chat[-1]["content"] else None,
        )
        self.batch_size = batch_size


@dataclass
class Verdict:
    mean: dict
    std: dict
    effort: dict


class ScriptedDetector:
    """Knows each prompt's risk."""

    def __init__(self, risks):
        self.risks = risks

    def assess(self, prompts, responses=None, *, risk_threshold=None, uncertainty=None):
        risks = [self.risks[prompt] for prompt in prompts]
        return [Verdict({CATEGORY: r}, {CATEGORY: 0.1}, {CATEGORY: "Severe"} if r > 0.3 else {}) for r in risks]


class OneTopic:
    """Every text is on one topic."""

    def embed(self, texts):
        return torch.ones(len(texts), 1)


@pytest.fixture(scope="session")
def scripted_engine():
    return ScriptedEngine


@pytest.fixture(scope="session")
def scripted_detector():
    return ScriptedDetector


@pytest.fixture(scope="session")
def one_topic():
    return OneTopic()
