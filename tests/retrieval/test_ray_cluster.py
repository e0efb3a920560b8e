"""Ray: two nodes on this machine make and search the same index as one process; a node may die."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurorit.core.artifact import hash_file
from neurorit.core.errors import ArtifactError, BadInput
from neurorit.data.examples import Passage
from neurorit.retrieval import ray_cluster as cluster
from neurorit.retrieval.encoders.load import load_encoder
from neurorit.retrieval.index.compact import compact_index
from neurorit.retrieval.index.index import Index, build_index
from neurorit.retrieval.index.update import update_index
from neurorit.retrieval.retriever import Retriever, SearchSettings
from neurorit.retrieval.settings import BuildSettings
from tests.ray_nodes import nodes_of_ray, started
from tests.retrieval.counting_encoder import CountingEncoder


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    with nodes_of_ray(cpus=1) as made:
        yield made


@pytest.fixture(scope="module")
def ray(nodes: Any) -> Iterator[Any]:
    with cluster.connected(nodes.address) as module:
        yield module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_nodes_give_what_one_process_gives_though_one_dies(
    nodes: Any,
    ray: Any,
    index: Index,
    world: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "_TASK", 8)
    second = started(lambda: nodes.add_node(num_cpus=1))
    encoder = cluster.ClusterEncoder(ray, "minilm")
    nodes_used: set[str] = set()
    died_after: list[int] = []
    made_so_far = 0
    vectors = encoder._vectors

    def counted(made: Any) -> Any:
        nonlocal made_so_far
        nodes_used.add(made[2])
        made_so_far += len(made[0])
        # Once both nodes have worked, one of them dies with tasks under way.
        if len(nodes_used) == 2 and not died_after:
            died_after.append(made_so_far)
            nodes.remove_node(second, allow_graceful=False)
        return vectors(made)

    monkeypatch.setattr(encoder, "_vectors", counted)
    # Lists as short as tasks, so that passages are asked for one after the other.
    monkeypatch.setattr("neurorit.retrieval.index.segments.CHUNK", 8)
    build_index(world["corpus"], tmp_path / "index", encoder=encoder)
    assert died_after and died_after[0] < len(index)
    made = Index.load(tmp_path / "index", encoder=index.encoder)
    texts = [passage.text for passage in index.passages]
    queries = [f"{texts[i % len(texts)]} {i}" for i in range(1000)]
    wanted = index.search(queries, 10)
    assert len(made) == len(index) and len(set(queries)) == 1000
    assert _ids(made.search(queries, 10)) == _ids(wanted)

    # One index of two segments, each in an actor, behind the retriever that serves.
    monkeypatch.setattr(BuildSettings, "segment", lambda self, dimension: len(index) // 2 + 1)
    build_index(world["corpus"], tmp_path / "many", encoder=index.encoder)
    spread = Retriever.on_cluster(ray, tmp_path / "many", SearchSettings())
    assert len(spread.index._shards) == 2  # type: ignore[attr-defined]
    assert _ids(spread.search(queries, 10)) == _ids(wanted)
    with pytest.raises(BadInput, match="without filters"):
        Retriever.on_cluster(ray, tmp_path / "many", SearchSettings(mode="bm25"))

    # The same passages in two indexes.
    lines = world["corpus"].read_text(encoding="utf-8").splitlines(keepends=True)
    places = []
    for number, part in enumerate((lines[: len(lines) // 3], lines[len(lines) // 3 :])):
        corpus = tmp_path / f"{number}.jsonl"
        corpus.write_text("".join(part), encoding="utf-8")
        places.append(tmp_path / f"shard-{number}")
        build_index(corpus, places[-1], encoder=index.encoder)
    sharded = cluster.ClusterIndex(ray, places, index.encoder)
    assert len(sharded) == len(index)
    assert _ids(sharded.search(queries, 10)) == _ids(wanted)
    assert sharded.search(queries[:1], 10)[0][0].rank == 1
    last = index.passages[-1]
    assert sharded.passage(last.id) == last
    with pytest.raises(BadInput, match="no passage"):
        sharded.passage("not there")
    with pytest.raises(ArtifactError):
        cluster.ClusterIndex(ray, [tmp_path / "nothing"], index.encoder)


def test_no_cluster_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("ray")

    def init(**_: Any) -> None:
        raise ConnectionError("nobody there\nand more")

    monkeypatch.setattr(module, "is_initialized", lambda: False)
    monkeypatch.setattr(module, "init", init)
    with (
        pytest.raises(BadInput, match="no cluster answers: nobody there; start one with `ray"),
        cluster.connected("127.0.0.1:1"),
    ):
        pass


def test_an_actor_that_starts_again_loads_no_other_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, place = CountingEncoder(), tmp_path / "index"
    monkeypatch.setattr("neurorit.retrieval.index.index.load_encoder", lambda *_, **__: encoder)
    build_index([Passage(f"p{i}", "", f"Text {i}.") for i in range(10)], place, encoder=encoder)
    (tmp_path / "more.jsonl").write_text('{"id": "p10", "text": "Text 10."}\n')
    update_index(place, add=tmp_path / "more.jsonl")
    digest = hash_file(place / "manifest.json")

    def shard(name: str) -> Any:
        return cluster._Shard(str(place), digest, name, encoder.fingerprint, None)

    assert [shard(name).size() for name in ("00000", "00001")] == [10, 1]
    compact_index(place)
    with pytest.raises(ArtifactError, match="was changed after the cluster had loaded it"):
        shard("00000")
    with pytest.raises(ArtifactError, match="has no segment 00001"):
        shard("00001")


def _ids(found: list[list[Any]]) -> list[list[str]]:
    return [[hit.passage.id for hit in hits] for hits in found]


def test_the_encoder_is_the_local_one_to_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ray:
        @staticmethod
        def remote(**_: Any) -> Any:
            return lambda function: function

    made = cluster.ClusterEncoder(Ray, "minilm")
    assert made.fingerprint == load_encoder("minilm").fingerprint
    assert made.encode_passages([]).shape == (0, made.dimension)


def test_tasks_are_under_way_while_the_first_is_waited_for() -> None:
    sent: list[int] = []
    most = 0

    class Task:
        def remote(self, name: str, batch_size: int, part: list[str]) -> list[str]:
            sent.append(len(part))
            return part

    class Ray:
        done = 0

        class exceptions:
            RayError = RuntimeError

        @staticmethod
        def remote(**options: Any) -> Any:
            assert options == {"max_retries": -1, "num_gpus": 0.5}
            return lambda function: Task()

        @staticmethod
        def cluster_resources() -> dict[str, float]:
            return {"CPU": 64.0, "GPU": 2.0}

        @classmethod
        def get(cls, pending: list[list[str]]) -> list[Any]:
            nonlocal most
            most = max(most, len(sent) - cls.done)
            cls.done += len(pending)
            return [
                (np.full((len(part), 384), len(part[0]), np.float32), print_of, "node")
                for part in pending
            ]

    made = cluster.ClusterEncoder(Ray, "minilm", gpus=0.5)
    print_of = made.fingerprint
    lists = [["x" * (i + 1)] * 1024 for i in range(20)]
    found = list(made.encode_stream(iter(lists)))
    assert [vectors[0, 0] for vectors in found] == [i + 1 for i in range(20)]
    assert all(vectors.shape == (1024, 384) for vectors in found)
    # Four workers of half a GPU each: three tasks for each of them, no more, without a barrier.
    assert most == 12 and len(sent) == 80
