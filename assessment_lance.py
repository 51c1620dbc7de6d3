"""From pairs of texts to risk distributions: encoding, batching by length, windows over long texts.

Copied to the Hub beside `modeling_lance.py`, so it imports only torch, transformers and its neighbours there.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise, repeat, zip_longest
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file, logging

from .configuration_lance import LanceConfig, check_threshold
from .distribution_lance import RiskDistribution, beta_std, decisive_risk

_PROGRESS_BAR_FROM = 1_000
_BATCHES_HELD = 64  # of pairs: enough to sort by length, and all that is ever held of an iterator
_BATCHES_ENCODED = 16  # of pairs, at a time: fewer would hold more padding, more would leave less to do meanwhile
_TOKENIZING = Lock()  # a fast tokenizer holds its truncation between calls, and threads may share it

Pair = tuple[str, str | None]
Encoding = dict[str, list[int]]
_MISSING = object()


def hub_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of a load's options, those that the Hub is asked with: they hold for all files of a checkpoint."""
    names = ("cache_dir", "force_download", "local_files_only", "revision", "token")
    return {name: options[name] for name in names if name in options}


def load_tokenizer(name_or_path: str | Path, config: LanceConfig, **from_hub) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside a checkpoint.

    Args:
        name_or_path: the checkpoint, on the Hub or in a folder.
        config: its configuration.
        from_hub: the [`hub_options`] that the checkpoint itself was loaded with.

    Raises:
        OSError: when there is none; `AutoTokenizer` would make up an empty one.
    """
    cached_file(name_or_path, "tokenizer.json", **from_hub)
    return AutoTokenizer.from_pretrained(name_or_path, config=config.encoder_config, **from_hub)


@dataclass(frozen=True)
class Prepared:
    """Pairs as the encoder takes them, an over-long one as several windows.

    Attributes:
        batches: the windows, padded, those of like length together: tensors of shape `(batch, seq)` by name.
        rows: of each batch, the places that its windows have where they stand pair after pair.
        counts: how many windows each pair has.
    """

    batches: list[Mapping[str, Tensor]]
    rows: list[list[int]]
    counts: list[int]


class RiskAssessor(ABC):
    """Assesses pairs of texts by whatever computes their Betas.

    A subclass brings the `config`, the `tokenizer` and `concentrations`.
    """

    config: LanceConfig
    tokenizer: PreTrainedTokenizerBase

    @abstractmethod
    def concentrations(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """α and β of one batch, each of shape `(batch, categories)`, in float32 on the CPU.

        It leaves the tokenizer alone, which may be encoding the next pairs in another thread.

        Args:
            batch: what the tokenizer gives for padded pairs, of shape `(batch, seq)` each, on the CPU.
        """

    def encode_pairs(
        self, prompts: Sequence[str], responses: Sequence[str | None] | None = None
    ) -> tuple[list[Encoding], list[int]]:
        """Tokenize pairs as the tokenizer's own sentence pairs; a prompt without a response stands alone.

        A pair longer than `config.max_length` loses the end of its longer side, so neither side ever vanishes. This is
        what training reads; `assess` reads the rest too.

        Args:
            prompts: the prompts, none of them blank.
            responses: a response (or `None`) for each; without it every prompt stands alone.

        Returns:
            The encodings in the order given, and how many tokens each lost.

        Raises:
            ValueError: for a blank prompt, what is no text, or lists of unequal lengths.
        """
        pairs = list(_pair_up(prompts, responses))
        encodings = self._encode(pairs)
        dropped = [max(0, len(encoding["input_ids"]) - self.config.max_length) for encoding in encodings]
        for row, lost in enumerate(dropped):
            if lost:
                cut = self._tokenize(*_sides(pairs[row]), truncation=True, max_length=self.config.max_length)
                encodings[row] = dict(cut)
        return encodings, dropped

    def assess(
        self,
        prompts: Iterable[str] | str,
        responses: Iterable[str | None] | str | None = None,
        batch_size: int = 64,
        risk_threshold: float | Mapping[str, float | None] | None = None,
        uncertainty: float | None = None,
    ) -> list[RiskDistribution] | Iterator[RiskDistribution]:
        """Estimate the risk of each pair; batches hold pairs of like length, and results keep the order given.

        A pair longer than `config.max_length` is read in windows of `config.window_length` that overlap, and each
        category keeps the window whose risk, or upper end, is the highest. The windows go over its longer side, with
        the other side, or its beginning, in half of each; where the other side is longer than that half, windows go
        over it too, with the longer one's beginning.

        Args:
            prompts: the prompts, or a single one. For an iterator, results come as one, and 64 batches of pairs are
                held at most.
            responses: a response (or `None`) for each; without it the prompts are judged alone.
            batch_size: pairs to a forward pass.
            risk_threshold: τ in place of the configuration's own, for all categories or by name; `None` for a name
                switches that category off.
            uncertainty: level of the Beta's central interval, in (0, 1), whose upper end is then held against τ where
                it lies above the mean: a risk that the detector isn't sure of counts as higher.

        Returns:
            One [`RiskDistribution`] a pair: a list, or an iterator where `prompts` is one.

        Raises:
            ValueError: for a blank prompt, what is no text, prompts and responses that don't pair up, a threshold or
                level outside (0, 1), an unknown category, or a batch size below 1. An iterator raises what is wrong
                with a pair, or what `prompts` or `responses` raise, behind the results of the pairs before it.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        thresholds = self.config.thresholds(risk_threshold)
        if uncertainty is not None:
            check_threshold("uncertainty", uncertainty)
        prompts = [prompts] if isinstance(prompts, str) else prompts
        responses = [responses] if isinstance(responses, str) else responses
        if isinstance(prompts, Iterator):
            return self._assess(_pair_up(prompts, responses), None, batch_size, thresholds, uncertainty)
        pairs = list(_pair_up(prompts, responses))
        return list(self._assess(pairs, len(pairs), batch_size, thresholds, uncertainty))

    def _assess(
        self,
        pairs: Iterable[Pair],
        total: int | None,
        batch_size: int,
        thresholds: Mapping[str, float | None],
        uncertainty: float | None,
    ) -> Iterator[RiskDistribution]:
        quiet = total is None or total < _PROGRESS_BAR_FROM
        with logging.tqdm(total=total, desc="assess", disable=quiet) as progress:
            for block in _blocks(pairs, batch_size * _BATCHES_HELD):
                alpha, beta = self._assess_block(block, batch_size, uncertainty, progress)  # (pairs, categories)
                for start in range(0, len(block), batch_size):
                    rows = slice(start, start + batch_size)
                    yield from self._describe(alpha[rows], beta[rows], thresholds, uncertainty)

    def _assess_block(self, pairs: Sequence[Pair], batch_size: int, uncertainty: float | None, progress) -> Tensor:
        """α and β of each pair, of shape `(2, pairs, categories)`."""
        # By characters: tokens are known only once they are made, which goes on part by part.
        order = sorted(range(len(pairs)), key=lambda row: -sum(map(len, _sides(pairs[row]))))
        # The first part is a single batch: while it is prepared, nothing can be scored.
        bounds = [0, *range(batch_size, len(order), batch_size * _BATCHES_ENCODED), len(order)]
        parts = [[pairs[row] for row in order[start:end]] for start, end in pairwise(bounds)]
        scored = [self._score(prepared, uncertainty, progress) for prepared in self._prepare_ahead(parts, batch_size)]
        return torch.cat(scored, dim=1)[:, torch.tensor(order).argsort()]

    def _prepare_ahead(self, parts: Sequence[Sequence[Pair]], batch_size: int) -> Iterator[Prepared]:
        """Each part prepared in a thread while the one before is scored: one thread at a time has the tokenizer."""
        with ThreadPoolExecutor(max_workers=1) as preparing:
            prepared = self._prepare(parts[0], batch_size)
            for part in parts[1:]:  # of a single batch, as in most calls, no thread is started
                upcoming = preparing.submit(self._prepare, part, batch_size)
                yield prepared
                prepared = upcoming.result()
            yield prepared

    def _prepare(self, pairs: Sequence[Pair], batch_size: int) -> Prepared:
        windows = self._encode_windows(pairs)
        encodings = [encoding for of_pair in windows for encoding in of_pair]
        order = sorted(range(len(encodings)), key=lambda row: -len(encodings[row]["input_ids"]))
        rows = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        batches = [self.tokenizer.pad([encodings[row] for row in of_batch], return_tensors="pt") for of_batch in rows]
        return Prepared(batches, rows, [len(of_pair) for of_pair in windows])

    def _score(self, prepared: Prepared, uncertainty: float | None, progress) -> Tensor:
        """α and β, of shape `(2, pairs, categories)`, each category's from its riskiest window."""
        first = {*accumulate(prepared.counts, initial=0)}
        scored = []
        for batch, rows in zip(prepared.batches, prepared.rows, strict=True):
            scored.append(torch.stack(self.concentrations(batch)))
            progress.update(sum(row in first for row in rows))  # it counts pairs
        order = torch.tensor([row for rows in prepared.rows for row in rows])
        windows = torch.cat(scored, dim=1)[:, order.argsort()]  # (2, windows, categories)
        if len(order) == len(prepared.counts):
            return windows
        of_pairs = windows.split(prepared.counts, dim=1)
        return torch.stack([_riskiest_window(of_pair, uncertainty) for of_pair in of_pairs], dim=1)

    def _describe(
        self,
        alpha: Tensor,
        beta: Tensor,
        thresholds: Mapping[str, float | None],
        uncertainty: float | None,
    ) -> Iterator[RiskDistribution]:
        mean = alpha / (alpha + beta)  # (B, 14)
        columns = (mean, beta_std(alpha, beta), alpha, beta, decisive_risk(alpha, beta, uncertainty))
        for values in zip(*(column.tolist() for column in columns), strict=True):
            mean_of, std_of, alpha_of, beta_of, risk = (
                dict(zip(self.config.categories, row, strict=True)) for row in values
            )
            efforts = {
                category: self.config.effort(risk[category], thresholds[category])
                for category in sorted(risk, key=lambda category: -risk[category])
                if thresholds[category] is not None
            }
            effort = {category: level for category, level in efforts.items() if level is not None}
            yield RiskDistribution(mean_of, std_of, alpha_of, beta_of, effort, not effort)

    def _tokenize(self, *sides, **options):
        """What the tokenizer makes of texts; a special token that one of them spells, such as `[SEP]`, stays text."""
        with _TOKENIZING:
            return self.tokenizer(*sides, split_special_tokens=True, verbose=False, **options)

    def _encode(self, pairs: Sequence[Pair]) -> list[Encoding]:
        """Encodings as long as they come; one call to the tokenizer for pairs, one for prompts alone."""
        encodings: list[Encoding] = [{} for _ in pairs]
        sides = [_sides(pair) for pair in pairs]
        for count in (1, 2):
            rows = [row for row, texts in enumerate(sides) if len(texts) == count]
            if rows:
                whole = self._tokenize(*([sides[row][side] for row in rows] for side in range(count)))
                for place, row in enumerate(rows):
                    encodings[row] = {name: whole[name][place] for name in whole}
        return encodings

    def _encode_windows(self, pairs: Sequence[Pair]) -> list[list[Encoding]]:
        """Of each pair its encoding, or those of its windows."""
        return [
            [encoding] if len(encoding["input_ids"]) <= self.config.max_length else self._cut_windows(_sides(pair))
            for pair, encoding in zip(pairs, self._encode(pairs), strict=True)
        ]

    def _cut_windows(self, sides: Sequence[str]) -> list[Encoding]:
        """An over-long pair as windows over each side that outgrows its room, each reaching an eighth into the next.

        The room is half a window, or a whole one for a prompt alone. Of the other side, a window holds what has room.
        """
        limit = min(self.config.window_length, self.config.max_length)
        room = (limit - self.tokenizer.num_special_tokens_to_add(pair=len(sides) == 2)) // len(sides)
        whole = self._tokenize(list(sides), add_special_tokens=False, return_offsets_mapping=True)
        spans = whole["offset_mapping"]  # where each side's tokens begin and end, in characters
        beginnings = [
            text if len(tokens) <= room else text[: tokens[room - 1][1]]
            for text, tokens in zip(sides, spans, strict=True)
        ]
        windows = []
        for side, text in enumerate(sides):
            if len(spans[side]) > room:
                cut = self._tokenize(
                    *beginnings[:side],
                    text,
                    *beginnings[side + 1 :],
                    truncation=("only_first", "only_second")[side],
                    max_length=limit,
                    stride=limit // 8,
                    return_overflowing_tokens=True,
                )
                names = self.tokenizer.model_input_names
                windows += [{name: cut[name][row] for name in names} for row in range(len(cut["input_ids"]))]
        return windows


def _blocks(pairs: Iterable[Pair], size: int) -> Iterator[list[Pair]]:
    """The pairs in lists of `size`; what they raise comes behind those read before."""
    block: list[Pair] = []
    try:
        for pair in pairs:
            block.append(pair)
            if len(block) == size:
                yield block
                block = []
    except Exception:  # whatever the caller's own iterator raises: it is raised again
        if block:
            yield block
        raise
    if block:
        yield block


def _riskiest_window(concentrations: Tensor, uncertainty: float | None) -> Tensor:
    """α and β of one pair, `(2, categories)`, out of those of its windows, `(2, windows, categories)`."""
    risk = decisive_risk(concentrations[0], concentrations[1], uncertainty)  # (windows, categories)
    riskiest = risk.argmax(0).expand(2, 1, -1)
    return concentrations.gather(1, riskiest).squeeze(1)


def _pair_up(prompts: Iterable[str], responses: Iterable[str | None] | None) -> Iterator[Pair]:
    """Prompt and response, or prompt and `None`, one after the other.

    Raises:
        ValueError: for a blank prompt, what is no text, a side that is no list of texts, or when one ends before the
            other.
    """
    for name, side in (("prompts", prompts), ("responses", responses)):
        if isinstance(side, str | Mapping):  # as a list, its letters or its keys
            raise ValueError(f"{name} must be a list of texts, got a {type(side).__name__}.")
    both: Iterable[tuple[Any, Any]] = (
        zip(prompts, repeat(None)) if responses is None else zip_longest(prompts, responses, fillvalue=_MISSING)
    )
    for index, (prompt, response) in enumerate(both):
        if _MISSING in (prompt, response):
            ended = "prompts" if prompt is _MISSING else "responses"
            raise ValueError(f"prompts and responses must pair up, but there are {index} {ended} only.")
        _check_text(f"prompt {index}", prompt)
        if response is not None:
            _check_text(f"response {index}", response)
        if not prompt.strip():
            raise ValueError(f"prompt {index} is empty: every pair needs a prompt.")
        yield prompt, response


def _check_text(name: str, text: Any):
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a string, got {text!r}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is no text ({error}): it holds half a character.") from None


def _sides(pair: Pair) -> tuple[str, ...]:
    """What the tokenizer encodes: a prompt without a response stands alone."""
    prompt, response = pair
    return (prompt,) if response is None or not response.strip() else (prompt, response)
