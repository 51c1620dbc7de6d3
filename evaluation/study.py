"""A study: which methods on which backbones, judged by whom; read from a YAML file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, get_args

import yaml

from corpora.evaluation_prompts import HUB_NAME
from errors import UserError, first_line
from evaluation.judge import MAX_NEW_TOKENS
from evaluation.methods.refusal_direction import Kind

METHODS = ("vanilla", "repe", "sysprompt", "selfrefine", "instruct", "lance", "lance-nr", "lance-nf")


_YAML_TYPES: dict[Any, Any] = {
    str: str,
    str | None: str | None,
    int: int,
    float: int | float,
    bool: bool,
    Kind | None: str | None,
    tuple[int, ...] | None: list | None,
    dict[str, tuple[float, float]]: dict,
}


class StudyError(UserError):
    """A study file that can't be read, or says what can't be done."""


@dataclass(frozen=True)
class Backbone:
    """A model whose answers are studied.

    Args:
        name: as in the tables.
        engine: its spelling.
        instruct: the officially aligned model that stands in its place for `instruct`, if any.
        repe: the spelling for `repe`, which needs transformers; that of `engine` when not given.
        commercial: a model behind an endpoint, for Table 4: it only answers (`vanilla`).
    """

    name: str
    engine: str
    instruct: str | None = None
    repe: str | None = None
    commercial: bool = False


@dataclass(frozen=True)
class Study:
    """All that the answers and their scores depend on.

    Args:
        backbones: the models studied.
        methods: names out of `METHODS`.
        refiner: spelling of Lance's refiner.
        coarse_refiner: of Lance-nf's, which judges for itself; that of `refiner` when not given.
        judges: spellings; the first one's scores make the tables, the others' tell the agreement.
        judge_max_new_tokens: of a judge's reply; one that reasons needs more. What a smaller limit cut off is asked
            again.
        prompts: a file, or a data set on the Hub, with `prompt` and `category`.
        prompt_count: how many prompts, drawn evenly over the categories.
        seed: of that draw and of all sampling.
        max_new_tokens: of an answer.
        max_steps: most rewrites of Lance, most revisions of SelfRefine.
        risk_threshold: τ.
        candidates: rewrites that Lance draws at each step.
        repe_coefficient: strength of RepE's direction, in mean norms of the hidden state.
        repe_direction: `"mean"`, the difference of the mean hidden states, or `"pca"`; the former when not given.
        repe_layers: places of the layers that the direction is added at; the middle third when not given.
        prices: dollars for a million tokens read and written, by engine; for the dry run.
    """

    backbones: tuple[Backbone, ...]
    methods: tuple[str, ...] = METHODS
    refiner: str = "embedded"
    coarse_refiner: str | None = None
    judges: tuple[str, ...] = ()
    judge_max_new_tokens: int = MAX_NEW_TOKENS
    prompts: str = HUB_NAME
    prompt_count: int = 500
    seed: int = 0
    max_new_tokens: int = 512
    max_steps: int = 5
    risk_threshold: float = 0.3
    candidates: int = 2
    repe_coefficient: float = 0.05
    repe_direction: Kind | None = None
    repe_layers: tuple[int, ...] | None = None
    prices: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self):
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown:
            raise StudyError(f"methods: {unknown[0]!r} is none of {', '.join(METHODS)}.")
        if not self.backbones:
            raise StudyError("backbones: name at least one.")
        for name in ("methods", "judges"):
            _check_distinct(name, getattr(self, name))
        _check_distinct("backbones", [backbone.name for backbone in self.backbones])
        for name in ("judge_max_new_tokens", "prompt_count", "max_new_tokens", "candidates"):
            if getattr(self, name) < 1:
                raise StudyError(f"{name}: must be at least 1, got {getattr(self, name)}.")
        if self.max_steps < 0:
            raise StudyError(f"max_steps: must be at least 0, got {self.max_steps}.")
        if not 0 <= self.seed < 2**63:  # torch's bound
            raise StudyError(f"seed: must lie between 0 and 2**63 - 1, got {self.seed}.")
        if not 0 < self.risk_threshold < 1:
            raise StudyError(f"risk_threshold: must lie between 0 and 1, got {self.risk_threshold}.")
        if not (isfinite(self.repe_coefficient) and self.repe_coefficient >= 0):
            raise StudyError(f"repe_coefficient: must be finite and at least 0, got {self.repe_coefficient}.")
        if self.repe_direction not in (None, *get_args(Kind)):
            raise StudyError(f"repe_direction: {self.repe_direction!r} is none of {', '.join(get_args(Kind))}.")
        if self.repe_layers is not None:
            if not self.repe_layers or not all(type(layer) is int and layer >= 0 for layer in self.repe_layers):
                raise StudyError(f"repe_layers: expected places of layers, from 0 on, got {list(self.repe_layers)}.")
            _check_distinct("repe_layers", self.repe_layers)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Study":
        """The study that [`as_config`] made the config of, also by way of JSON."""
        values = dict(config)
        values["backbones"] = tuple(Backbone(**backbone) for backbone in config["backbones"])
        values["methods"], values["judges"] = tuple(config["methods"]), tuple(config["judges"])
        values["repe_layers"] = _as_tuple(config.get("repe_layers"))
        values["prices"] = {engine: tuple(price) for engine, price in config["prices"].items()}
        return cls(**values)

    def methods_of(self, backbone: Backbone) -> list[str]:
        """The methods that this backbone takes part in."""
        if backbone.commercial:
            return ["vanilla"]
        return [method for method in self.methods if method != "instruct" or backbone.instruct is not None]

    def engine_of(self, method: str, backbone: Backbone, role: str) -> str:
        """The spelling of the engine that a method asks.

        Args:
            method: one of `METHODS`.
            backbone: the model studied.
            role: `"backbone"` or `"refiner"`.
        """
        if role == "refiner":
            return self.coarse_refiner or self.refiner if method == "lance-nf" else self.refiner
        return {"instruct": backbone.instruct, "repe": backbone.repe}.get(method) or backbone.engine

    def as_config(self) -> dict[str, Any]:
        """The study as the manifest keeps it."""
        return asdict(self)

    def fixed(self) -> dict[str, Any]:
        """What may not change within a run; methods, backbones and, behind the others, judges may be added."""
        names = (
            *("prompt_count", "seed", "max_new_tokens", "max_steps", "risk_threshold", "candidates"),
            *("refiner", "coarse_refiner", "repe_coefficient", "repe_direction"),
        )
        values = {name: getattr(self, name) for name in names}
        # As text: a list might go on at its end.
        values["repe_layers"] = self.repe_layers and ", ".join(map(str, self.repe_layers))
        engines = {
            backbone.name: {
                method: self.engine_of(method, backbone, "backbone") for method in self.methods_of(backbone)
            }
            for backbone in self.backbones
        }
        return values | {"engines": engines, "judges": list(self.judges)}


def load_study(path: Path, **overrides: Any) -> Study:
    """The study in a YAML file.

    Args:
        path: the file.
        overrides: fields that take another value, such as `prompts`.

    Raises:
        StudyError: naming the file and the field that is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise StudyError(f"{path}: can't be read ({first_line(error)}).") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path}: expected fields with values.")
    try:
        return _read(content | overrides)
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from None


def _read(content: dict) -> Study:
    backbones = content.get("backbones")
    if not isinstance(backbones, list):
        raise StudyError("backbones: expected a list.")
    values = _check_fields(Study, content) | {
        "backbones": tuple(Backbone(**_check_fields(Backbone, backbone)) for backbone in backbones)
    }
    for name in ("methods", "judges"):
        if name in values:
            values[name] = tuple(_check_texts(name, values[name]))
    values["repe_layers"] = _as_tuple(values.get("repe_layers"))
    values["prices"] = {engine: _check_price(engine, price) for engine, price in values.get("prices", {}).items()}
    return Study(**values)


def _check_fields(kind: type, content: Any) -> dict:
    """The content as `kind`'s arguments, each of the type it has there."""
    if not isinstance(content, dict):
        raise StudyError(f"{kind.__name__.lower()}: expected fields with values, got {content!r}.")
    types = {field.name: field.type for field in fields(kind)}
    for name, value in content.items():
        if name not in types:
            raise StudyError(f"{name}: no such field; there are {', '.join(types)}.")
        wanted = _YAML_TYPES.get(types[name])
        # To Python a truth value is a number, too.
        if wanted is not None and (not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool)):
            raise StudyError(f"{name}: {value!r} is of the wrong kind.")
    missing = [name for name in ("name", "engine") if kind is Backbone and name not in content]
    if missing:
        raise StudyError(f"backbones: one lacks {missing[0]!r}.")
    return content


def _check_texts(name: str, values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise StudyError(f"{name}: expected a list of names.")
    return values


def _as_tuple(values: list | None) -> tuple | None:
    return None if values is None else tuple(values)


def _check_price(engine: str, price: Any) -> tuple[float, float]:
    match price:
        case [int() | float() as read, int() | float() as written]:
            return float(read), float(written)
    raise StudyError(f"prices: {engine}: expected two numbers, dollars for a million tokens read and written.")


def _check_distinct(name: str, values):
    repeated = [value for place, value in enumerate(values) if value in values[:place]]
    if repeated:
        raise StudyError(f"{name}: {repeated[0]!r} stands there twice.")
