"""From pairs of texts to risk distributions: encoding, batching by length, windows over long texts, Betas read out.

Copied to the Hub beside `modeling_lance.py`, so it imports only torch, transformers and the configuration.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, islice, repeat, zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .configuration_lance import LanceConfig, check_threshold

_PROGRESS_BAR_FROM = 1_000
_BATCHES_AHEAD = 64  # encoded at a time: enough to sort by length, and all that is ever held of an iterator

Pair = tuple[str, str | None]
Encoding = dict[str, list[int]]
_MISSING = object()


def beta_std(alpha: Tensor, beta: Tensor) -> Tensor:
    """Standard deviation of Beta(alpha, beta), elementwise: the detector's own uncertainty."""
    total = alpha + beta
    return (alpha * beta / (total + 1)).sqrt() / total


def beta_quantile(alpha: Tensor, beta: Tensor, probability: float, points: int = 4096) -> Tensor:
    """Quantile of Beta(alpha, beta), elementwise, by integrating its density over a grid in logit space.

    Torch has no inverse of the incomplete beta function; on this grid the error stays below 1e-4.

    Args:
        alpha: of any shape, positive.
        beta: of the same shape.
        probability: the level, in (0, 1).
        points: the grid's size.
    """
    alpha, beta = alpha.double().unsqueeze(-1), beta.double().unsqueeze(-1)
    # In u = logit(d) the density is d^alpha (1 - d)^beta, with exponential tails of slope alpha and beta. A grid spaced
    # as sinh is fine at the mode and still reaches to where e^-40 is left.
    mode, width = alpha.log() - beta.log(), (1 / alpha + 1 / beta).sqrt()
    reach = torch.asinh((40 / torch.minimum(alpha, beta) + 40 * width) / width)
    unit = torch.linspace(-1, 1, points, dtype=torch.float64, device=alpha.device) * reach  # (..., points)
    grid = mode + width * unit.sinh()
    log_density = alpha * functional.logsigmoid(grid) + beta * functional.logsigmoid(-grid) + unit.cosh().log()
    density = (log_density - log_density.amax(-1, keepdim=True)).exp()
    mass = torch.cumulative_trapezoid(density, dim=-1)  # (..., points - 1)
    target = probability * mass[..., -1:]
    index = torch.searchsorted(mass, target).clamp(1, points - 2)
    below, above = mass.gather(-1, index - 1), mass.gather(-1, index)
    share = ((target - below) / (above - below)).clamp(0, 1)
    logit = torch.lerp(grid.gather(-1, index), grid.gather(-1, index + 1), share)
    return logit.squeeze(-1).sigmoid().float()


@dataclass(frozen=True)
class RiskDistribution:
    """What the detector says of one prompt-response pair.

    Attributes:
        mean: d_j by category name, in (0, 1).
        std: the standard deviation of each category's Beta.
        alpha: the Beta's first parameter by category.
        beta: its second.
        effort: `"Minor"`, `"Mild"` or `"Severe"` for each category above its τ, the riskiest first.
        is_safe: whether no category is above its τ.
        truncated_tokens: how many tokens of the pair did not fit the encoder and went unread.
    """

    mean: dict[str, float]
    std: dict[str, float]
    alpha: dict[str, float]
    beta: dict[str, float]
    effort: dict[str, str]
    is_safe: bool
    truncated_tokens: int

    @property
    def max_risk(self) -> float:
        """max_j d_j over all categories, those switched off among them."""
        return max(self.mean.values())

    def interval(self, level: float = 0.9) -> dict[str, tuple[float, float]]:
        """The central interval that holds `level` of each category's Beta, as (lower, upper).

        Raises:
            ValueError: for a level outside (0, 1).
        """
        check_threshold("level", level)
        alpha, beta = torch.tensor(list(self.alpha.values())), torch.tensor(list(self.beta.values()))
        lower = beta_quantile(alpha, beta, (1 - level) / 2).tolist()
        upper = beta_quantile(alpha, beta, (1 + level) / 2).tolist()
        return dict(zip(self.mean, zip(lower, upper, strict=True), strict=True))


@dataclass(frozen=True)
class Windows:
    """A pair as the encoder reads it.

    Attributes:
        encodings: one, or for an over-long pair several.
        unread: how many of its tokens stand in none.
    """

    encodings: list[Encoding]
    unread: int = 0


class RiskAssessor(ABC):
    """Assesses pairs of texts by whatever computes their Betas.

    A subclass brings the `config`, the `tokenizer` and `concentrations`.
    """

    config: LanceConfig
    tokenizer: PreTrainedTokenizerBase

    @abstractmethod
    def concentrations(self, encodings: Sequence[Encoding]) -> tuple[Tensor, Tensor]:
        """α and β of one batch, each of shape `(batch, categories)`, in float32 on the CPU.

        Args:
            encodings: of pairs, not padded yet.
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
            ValueError: for a blank prompt, or lists of unequal lengths.
        """
        pairs = list(_pair_up(prompts, responses))
        encodings = self._encode(pairs)
        dropped = [max(0, len(encoding["input_ids"]) - self.config.max_length) for encoding in encodings]
        for row, lost in enumerate(dropped):
            if lost:
                encodings[row] = dict(
                    self.tokenizer(*_sides(pairs[row]), truncation=True, max_length=self.config.max_length)
                )
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

        A pair longer than `config.max_length` is read in windows that overlap, and each category keeps the window with
        the highest risk. The windows go over its longer side; the other side stands in each, at most half of it.

        Args:
            prompts: the prompts, or a single one. For an iterator, results come as one, and memory doesn't grow with
                the input.
            responses: a response (or `None`) for each; without it the prompts are judged alone.
            batch_size: pairs to a forward pass.
            risk_threshold: τ in place of the configuration's own, for all categories or by name; `None` for a name
                switches that category off.
            uncertainty: level of the Beta's central interval, in (0, 1), whose upper end is then held against τ where
                it lies above the mean: a risk that the detector isn't sure of counts as higher.

        Returns:
            One [`RiskDistribution`] a pair: a list, or an iterator where `prompts` is one.

        Raises:
            ValueError: for a blank prompt, prompts and responses that don't pair up, a threshold or level outside
                (0, 1), an unknown category, or a batch size below 1. An iterator raises what is wrong with a pair when
                it comes to it.
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
            for windows in self._windows_ahead(pairs, batch_size * _BATCHES_AHEAD):
                alpha, beta = self._riskiest(windows, batch_size, progress)  # (pairs, categories)
                for start in range(0, len(alpha), batch_size):
                    rows = slice(start, start + batch_size)
                    unread = [pair.unread for pair in windows[rows]]
                    yield from self._describe(alpha[rows], beta[rows], unread, thresholds, uncertainty)

    def _windows_ahead(self, pairs: Iterable[Pair], count: int) -> Iterator[list[Windows]]:
        """The windows of `count` pairs after another, the next ones encoded in a thread while these are scored."""
        remaining = iter(pairs)
        windows = self._encode_windows(list(islice(remaining, count)))
        with ThreadPoolExecutor(max_workers=1) as tokenizing:
            while windows:
                following = list(islice(remaining, count))
                # Most calls end here: they start no thread.
                upcoming = tokenizing.submit(self._encode_windows, following) if following else None
                yield windows
                windows = upcoming.result() if upcoming else []

    def _riskiest(self, windows: Sequence[Windows], batch_size: int, progress) -> tuple[Tensor, Tensor]:
        """α and β of each pair, each category's from the window where its mean is highest."""
        counts = [len(pair.encodings) for pair in windows]
        first = {*accumulate(counts, initial=0)}
        encodings = [encoding for pair in windows for encoding in pair.encodings]
        order = sorted(range(len(encodings)), key=lambda row: -len(encodings[row]["input_ids"]))
        parts = []
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            parts.append(torch.stack(self.concentrations([encodings[row] for row in rows])))
            progress.update(sum(row in first for row in rows))  # it counts pairs
        concentrations = torch.cat(parts, dim=1)[:, torch.tensor(order).argsort()]  # (2, windows, categories)
        if len(encodings) > len(windows):
            each = [_riskiest_window(part) for part in concentrations.split(counts, dim=1)]
            concentrations = torch.stack(each, dim=1)  # (2, pairs, categories)
        return concentrations[0], concentrations[1]

    def _describe(
        self,
        alpha: Tensor,
        beta: Tensor,
        unread: Sequence[int],
        thresholds: Mapping[str, float | None],
        uncertainty: float | None,
    ) -> Iterator[RiskDistribution]:
        mean = alpha / (alpha + beta)  # (B, 14)
        decided = mean
        if uncertainty is not None:
            # The mean of a skewed Beta can lie above its interval; the risk counts as no lower for that.
            decided = mean.maximum(beta_quantile(alpha, beta, (1 + uncertainty) / 2))
        columns = (mean, beta_std(alpha, beta), alpha, beta, decided)
        for *values, lost in zip(*(column.tolist() for column in columns), unread, strict=True):
            mean_of, std_of, alpha_of, beta_of, risk = (
                dict(zip(self.config.categories, row, strict=True)) for row in values
            )
            efforts = {
                category: self.config.effort(risk[category], thresholds[category])
                for category in sorted(risk, key=lambda category: -risk[category])
                if thresholds[category] is not None
            }
            effort = {category: level for category, level in efforts.items() if level is not None}
            yield RiskDistribution(mean_of, std_of, alpha_of, beta_of, effort, not effort, lost)

    def _encode(self, pairs: Sequence[Pair]) -> list[Encoding]:
        """Encodings as long as they come; one call to the tokenizer for pairs, one for prompts alone."""
        encodings: list[Encoding] = [{} for _ in pairs]
        sides = [_sides(pair) for pair in pairs]
        for count in (1, 2):
            rows = [row for row, texts in enumerate(sides) if len(texts) == count]
            if rows:
                whole = self.tokenizer(*([sides[row][side] for row in rows] for side in range(count)), verbose=False)
                for place, row in enumerate(rows):
                    encodings[row] = {name: whole[name][place] for name in whole}
        return encodings

    def _encode_windows(self, pairs: Sequence[Pair]) -> list[Windows]:
        return [
            Windows([encoding]) if len(encoding["input_ids"]) <= self.config.max_length else self._cut_windows(pair)
            for pair, encoding in zip(pairs, self._encode(pairs), strict=True)
        ]

    def _cut_windows(self, pair: Pair) -> Windows:
        """An over-long pair as windows over its longer side, each an eighth of the length into the next."""
        sides, limit = list(_sides(pair)), self.config.max_length
        lengths = [len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in sides]
        longer = lengths.index(max(lengths))
        unread = 0
        if len(sides) == 2:
            shorter, room = 1 - longer, (limit - self.tokenizer.num_special_tokens_to_add(pair=True)) // 2
            if lengths[shorter] > room:
                sides[shorter] = self._beginning(sides[shorter], room)
                unread = lengths[shorter] - room
        cut = self.tokenizer(
            *sides,
            truncation=("only_first", "only_second")[longer],
            max_length=limit,
            stride=limit // 8,
            return_overflowing_tokens=True,
        )
        names = self.tokenizer.model_input_names
        encodings = [{name: cut[name][row] for name in names} for row in range(len(cut["input_ids"]))]
        return Windows(encodings, unread)

    def _beginning(self, text: str, tokens: int) -> str:
        cut = self.tokenizer(
            text, add_special_tokens=False, truncation=True, max_length=tokens, return_offsets_mapping=True
        )
        return text[: cut["offset_mapping"][-1][1]]


def _riskiest_window(concentrations: Tensor) -> Tensor:
    """α and β of one pair, `(2, categories)`, out of those of its windows, `(2, windows, categories)`."""
    mean = concentrations[0] / concentrations.sum(0)  # (windows, categories)
    riskiest = mean.argmax(0).expand(2, 1, -1)
    return concentrations.gather(1, riskiest).squeeze(1)


def _pair_up(prompts: Iterable[str], responses: Iterable[str | None] | None) -> Iterator[Pair]:
    """Prompt and response, or prompt and `None`, one after the other.

    Raises:
        ValueError: for a blank prompt, or when one side ends before the other.
    """
    both: Iterable[tuple[Any, Any]] = (
        zip(prompts, repeat(None)) if responses is None else zip_longest(prompts, responses, fillvalue=_MISSING)
    )
    for index, (prompt, response) in enumerate(both):
        if _MISSING in (prompt, response):
            ended = "prompts" if prompt is _MISSING else "responses"
            raise ValueError(f"prompts and responses must pair up, but there are {index} {ended} only.")
        if not prompt.strip():
            raise ValueError(f"prompt {index} is empty: every pair needs a prompt.")
        yield prompt, response


def _sides(pair: Pair) -> tuple[str, ...]:
    """What the tokenizer encodes: a prompt without a response stands alone."""
    prompt, response = pair
    return (prompt,) if response is None or not response.strip() else (prompt, response)
