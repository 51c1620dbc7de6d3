"""The compared methods, put together as a study says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.engine_pool import EnginePool
from evaluation.kept_engine import KeptEngine
from evaluation.methods.base import Method
from evaluation.methods.instruct import Instruct
from evaluation.methods.lance import Lance
from evaluation.methods.lance_nf import LanceNf
from evaluation.methods.lance_nr import LanceNr
from evaluation.methods.repe import RepE
from evaluation.methods.selfrefine import SelfRefine
from evaluation.methods.sysprompt import SysPrompt
from evaluation.methods.vanilla import Vanilla
from evaluation.study import Backbone, Study
from generation.base import SamplingParameters, TextGenerator
from refinement.demonstrations import DEMONSTRATIONS, load_demonstrations
from refinement.frame import default_shots
from refinement.loop import REWRITE_TOKENS, Detector, RefinementParameters
from refinement.refusals import RefusalDetector
from refinement.similarity import Embedder

DIRECTION_PAIRS = 256  # of a risky prompt and its harmless rewrite, that tell RepE's direction


@dataclass(frozen=True)
class Models:
    """What a study needs besides the engines that it names.

    Args:
        pool: loads those.
        detector: Lance's.
        embedder: for similarities.
        kept: the folder that keeps RepE's directions, and each method's completions: of what a kill leaves unfinished
            they are not asked again.
    """

    pool: EnginePool
    detector: Detector
    embedder: Embedder
    kept: Path


def build_method(name: str, backbone: Backbone, study: Study, models: Models) -> Method:
    """One method on one backbone, with the engines that it needs loaded.

    Args:
        name: one of `evaluation.study.METHODS`.
        backbone: answers.
        study: says the rest.
        models: all that the study doesn't name.
    """
    loop, pool = loop_parameters(study), models.pool
    engine = pool.get(study.engine_of(name, backbone, "backbone"))
    if name == "repe":
        steered: Any = engine  # RepE itself refuses another kind than it can steer
        return RepE(
            *(steered, loop.answer, *direction_prompts(), models.kept / "directions"),
            direction=study.repe_direction or "mean",
            layers=study.repe_layers,
            coefficient=study.repe_coefficient,
        )

    def keeping(engine: TextGenerator) -> TextGenerator:
        return KeptEngine(engine, models.kept / "completions" / name)  # a folder each: their costs stay their own

    engine = keeping(engine)
    if name == "vanilla":
        return Vanilla(engine, loop.answer)
    if name == "instruct":
        return Instruct(engine, loop.answer)
    if name == "sysprompt":
        return SysPrompt(engine, loop.answer)
    if name == "selfrefine":
        return SelfRefine(engine, loop.answer, study.max_steps)
    if name == "lance-nr":  # asks no refiner
        return LanceNr(engine, engine, models.detector, models.embedder, loop)
    refiner = study.engine_of(name, backbone, "refiner")
    if name == "lance-nf":
        return LanceNf(engine, keeping(pool.get(refiner)), loop.answer, loop.rewrite, study.max_steps)
    rewriting = keeping(pool.get(refiner, adapted=True))
    return Lance(engine, rewriting, models.detector, models.embedder, loop, RefusalDetector.load())


def loop_parameters(study: Study) -> RefinementParameters:
    """How Lance's loop goes."""
    return RefinementParameters(
        max_steps=study.max_steps,
        risk_threshold=study.risk_threshold,
        candidates=study.candidates,
        shots=default_shots(study.refiner),
        answer=SamplingParameters(max_new_tokens=study.max_new_tokens, seed=study.seed),
        rewrite=SamplingParameters(max_new_tokens=REWRITE_TOKENS, seed=study.seed),
    )


def direction_prompts() -> tuple[list[str], list[str]]:
    """Risky prompts, and the harmless rewrite of each: they differ in the risk and share the topic."""
    severe = [
        demonstration
        for demonstration in load_demonstrations(DEMONSTRATIONS)
        if "Severe" in demonstration.effort.values()
    ][:DIRECTION_PAIRS]
    return [pair.prompt for pair in severe], [pair.refined for pair in severe]


def most_calls(study: Study) -> Mapping[str, Mapping[str, int]]:
    """The most calls that a prompt can cost, by method and role; no engine is loaded for it."""
    none: Any = None
    sampling = SamplingParameters()
    methods: list[Any] = [
        *(Vanilla, SysPrompt, Instruct, RepE, SelfRefine(none, sampling, study.max_steps)),
        LanceNf(none, none, sampling, sampling, study.max_steps),
        *(kind(none, none, none, none, loop_parameters(study)) for kind in (Lance, LanceNr)),
    ]
    return {method.name: method.most_calls for method in methods}
