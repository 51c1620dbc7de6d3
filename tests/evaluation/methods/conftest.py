from dataclasses import dataclass

import pytest
import torch

from generation.base import Completion, GenerationError, PromptTooLongError

CATEGORY = "privacy_violation"


class ScriptedEngine:
    """Answers by a function of the chat; a prompt with "fails" or "too long" in it gets no answer."""

    name = "scripted"

    def __init__(self, answer=None, batch_size=4):
        self.answer = answer or (lambda chat: f"answer to {chat[-1]['content']}")
        self.batch_size = batch_size
        self.batches, self.samplings = [], []

    def generate(self, chats, sampling):
        texts = [chat[-1]["content"] for chat in chats]
        for index, text in enumerate(texts):
            if "too long" in text:
                raise PromptTooLongError(index, 99, 64, text)
        self.batches.append(list(chats))
        self.samplings.append(sampling)
        failures = {index: "the server is gone" for index, text in enumerate(texts) if "fails" in text}
        completions = {
            index: Completion(self.answer(chat), 10, 3, "stop")
            for index, chat in enumerate(chats)
            if index not in failures
        }
        if failures:
            raise GenerationError("some failed", failures, completions)
        return list(completions.values())

    @property
    def asked(self):
        """The last message of each chat, by batch."""
        return [[chat[-1]["content"] for chat in batch] for batch in self.batches]


@dataclass
class Verdict:
    mean: dict
    std: dict
    effort: dict
    truncated_tokens: int = 0


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
