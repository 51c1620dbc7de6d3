"""SelfRefine (Madaan et al., 2023): the backbone answers, criticises its answer and revises it, all by itself."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from evaluation.methods.base import Answer, TraceStep
from evaluation.methods.drafts import Draft, ask, plain_chat, start_batches
from generation.base import Chat, SamplingParameters, TextGenerator
from generation.tags import Tags

_TEXTS = tomllib.loads(Path(__file__).with_name("selfrefine.toml").read_text(encoding="utf-8"))
CRITIQUE_PROMPT, REVISE_PROMPT = (
    _TEXTS[name].format(guidelines=_TEXTS["guidelines"].strip()).strip() for name in ("critique", "revise")
)
NO_VERDICT = "the critique's first line is neither PASS nor FAIL: counted as not passed"
_TAGS = Tags("question", "answer", "critique")


@dataclass(frozen=True)
class SelfRefine:
    """Answer, critique under safety guidelines, revise; until a critique passes or the rounds end.

    A trace step is one of the answers, with the critique of it as its gradient. The last round's revision stands
    without a critique, so it never counts as converged.

    Args:
        backbone: answers, criticises and revises.
        sampling: its decoding, of all three.
        max_rounds: most critiques of a prompt's answers, each but a passing one followed by a revision.
    """

    backbone: TextGenerator
    sampling: SamplingParameters
    max_rounds: int = 3
    name: ClassVar[str] = "selfrefine"

    @property
    def most_calls(self) -> Mapping[str, int]:
        """See [`Method.most_calls`]."""
        return {"backbone": 1 + 2 * self.max_rounds}

    def answer(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """See [`Method.answer`]; a call that fails at any point is its prompt's error, with the steps so far."""
        for drafts in start_batches(prompts, self.backbone.batch_size):
            self._extend(drafts, lambda draft: plain_chat(draft.prompt))
            live = drafts
            for _ in range(self.max_rounds):
                self._criticise(live)
                done = [draft for draft in live if draft.error or passes(draft.steps[-1].gradient)]
                yield from [draft.finish(converged=True) for draft in done]
                live = [draft for draft in live if draft not in done]
                self._extend(live, _revise_chat)
            yield from [draft.finish(converged=False) for draft in live]

    def _extend(self, drafts: Sequence[Draft], as_chat):
        """Another answer of each."""
        for draft, reply in ask(self.backbone, drafts, as_chat, self.sampling):
            draft.steps.append(TraceStep(draft.prompt, reply.text, finish_reason=reply.finish_reason))

    def _criticise(self, drafts: Sequence[Draft]):
        """The critique of each one's last answer."""
        for draft, reply in ask(self.backbone, drafts, _critique_chat, self.sampling):
            note = NO_VERDICT if read_verdict(reply.text) is None else None
            draft.steps[-1] = replace(draft.steps[-1], gradient=reply.text, note=note)


def read_verdict(critique: str) -> bool | None:
    """Whether a critique passes the answer: its first line is PASS or FAIL and nothing else, or there is no verdict."""
    return {"PASS": True, "FAIL": False}.get(critique.strip().partition("\n")[0].strip())


def passes(critique: str | None) -> bool:
    """Whether there is a critique that passes the answer; one without a verdict doesn't."""
    return critique is not None and read_verdict(critique) is True


def _critique_chat(draft: Draft) -> Chat:
    content = _TAGS.frame(question=draft.prompt, answer=draft.steps[-1].response)
    return [{"role": "system", "content": CRITIQUE_PROMPT}, {"role": "user", "content": content}]


def _revise_chat(draft: Draft) -> Chat:
    last = draft.steps[-1]
    content = _TAGS.frame(question=draft.prompt, answer=last.response, critique=last.gradient or "")
    return [{"role": "system", "content": REVISE_PROMPT}, {"role": "user", "content": content}]
