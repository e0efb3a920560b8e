"""Ray: two nodes on this machine make and search the same index as one process; a node may die."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from retrieval import cluster
from retrieval.building import BuildSettings
from retrieval.encoder import load_encoder
from retrieval.errors import ArtifactError, BadInput
from retrieval.index import Index, build_index
from retrieval.search import Retriever, SearchSettings


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    made.shutdown()


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
    monkeypatch.setattr(cluster, "_TASK", 32)
    second = nodes.add_node(num_cpus=1)
    killer = threading.Timer(8.0, lambda: nodes.remove_node(second, allow_graceful=False))
    killer.start()
    encoder = cluster.ClusterEncoder(ray, "minilm")
    build_index(world["corpus"], tmp_path / "index", encoder=encoder)
    killer.join()
    made = Index.load(tmp_path / "index", encoder=index.encoder)
    queries = [passage.text for passage in index.passages][:1000]
    wanted = index.search(queries, 10)
    assert len(made) == len(index)
    assert _ids(made.search(queries, 10)) == _ids(wanted)

    # One index of several segments, each in an actor, behind the retriever that serves.
    monkeypatch.setattr(BuildSettings, "segment", lambda self, dimension: 32)
    build_index(world["corpus"], tmp_path / "many", encoder=index.encoder)
    spread = Retriever.on_cluster(ray, tmp_path / "many", SearchSettings())
    assert len(spread.index._shards) > 1  # type: ignore[attr-defined]
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
