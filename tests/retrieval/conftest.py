"""Fixtures: a small world, indexed once by the real encoder and real FAISS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from neurorit.lab.world import write_world
from neurorit.retrieval.encoders.load import load_encoder
from neurorit.retrieval.index.index import Index, build_index


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return write_world(tmp_path_factory.mktemp("world"), 0, train=30, validation=10, test=30)


@pytest.fixture(scope="session")
def index_dir(world: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "index"
    build_index(world["corpus"], out)
    return out


@pytest.fixture(scope="session")
def index(index_dir: Path) -> Index:
    return Index.load(index_dir, encoder=load_encoder())
