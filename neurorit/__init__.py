"""Robust retrieval-augmented language models: index, mix noise, mine neurons, tune, evaluate.

The names below come when they are first used, so that importing this costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from neurorit import errors as errors
from neurorit.core import __version__ as __version__

if TYPE_CHECKING:
    from neurorit.core.registry import register as register
    from neurorit.data.example_files import load_examples as load_examples
    from neurorit.data.examples import Example as Example
    from neurorit.data.examples import Passage as Passage
    from neurorit.eval.run.systems import System as System
    from neurorit.mining.atlas import NeuronAtlas as NeuronAtlas
    from neurorit.mining.attribute import attribute as attribute
    from neurorit.mining.mine import mine as mine
    from neurorit.mining.settings import MiningSettings as MiningSettings
    from neurorit.model.foreign.importing import import_model as import_model
    from neurorit.model.load import load_model as load_model
    from neurorit.model.prompts import PromptTemplate as PromptTemplate
    from neurorit.model.prompts import render_prompt as render_prompt
    from neurorit.pipelines.evaluation.evaluate import Evaluation as Evaluation
    from neurorit.pipelines.evaluation.evaluate import evaluate as evaluate
    from neurorit.pipelines.method import merge as merge
    from neurorit.retrieval.index.index import Index as Index
    from neurorit.retrieval.index.index import build_index as build_index
    from neurorit.retrieval.noise.mix import mix as mix
    from neurorit.retrieval.noise.settings import MixSettings as MixSettings
    from neurorit.retrieval.noise.settings import PoolSettings as PoolSettings
    from neurorit.retrieval.retriever import Retriever as Retriever
    from neurorit.retrieval.settings import BuildSettings as BuildSettings
    from neurorit.retrieval.settings import SearchSettings as SearchSettings
    from neurorit.tuning.settings import TuneSettings as TuneSettings
    from neurorit.tuning.tune import tune as tune

_PLACES = {
    "BuildSettings": "retrieval.settings",
    "Evaluation": "pipelines.evaluation.evaluate",
    "Example": "data.examples",
    "Index": "retrieval.index.index",
    "MiningSettings": "mining.settings",
    "MixSettings": "retrieval.noise.settings",
    "NeuronAtlas": "mining.atlas",
    "Passage": "data.examples",
    "PoolSettings": "retrieval.noise.settings",
    "PromptTemplate": "model.prompts",
    "Retriever": "retrieval.retriever",
    "SearchSettings": "retrieval.settings",
    "System": "eval.run.systems",
    "TuneSettings": "tuning.settings",
    "attribute": "mining.attribute",
    "build_index": "retrieval.index.index",
    "evaluate": "pipelines.evaluation.evaluate",
    "import_model": "model.foreign.importing",
    "load_examples": "data.example_files",
    "load_model": "model.load",
    "merge": "pipelines.method",
    "mine": "mining.mine",
    "mix": "retrieval.noise.mix",
    "register": "core.registry",
    "render_prompt": "model.prompts",
    "tune": "tuning.tune",
}

__all__ = ["__version__", *_PLACES]  # noqa: PLE0604, the keys are names


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
