"""Encoding and searching on a Ray cluster: more machines, the same index and the same results.

`ClusterEncoder` is an encoder like any other, so that an index is built by the same code and
resumes in the same way; only the vectors of passages are computed elsewhere. `ClusterIndex` holds
the segments of an index, each in an actor, and searches them as one. Tasks and actors of a lost
node are run again on another one.
"""

from __future__ import annotations

import contextlib
import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurorit.core.artifact import manifest_digest
from neurorit.core.errors import ArtifactError, BadInput, MissingExtra, NeuroritError
from neurorit.retrieval.encoders.base import Encoder, described
from neurorit.retrieval.encoders.load import DEFAULT, load_encoder
from neurorit.retrieval.index.index import read_index_manifest

if TYPE_CHECKING:
    import numpy as np

    from neurorit.data.examples import Passage
    from neurorit.retrieval.index.index import Hit

LOCAL = "local"
_TASK = 256  # passages of one task
_AHEAD = 3  # tasks under way for each worker


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """The `ray` module, connected to a cluster: an address, `auto`, or `local` for this machine.

    A connection that is there already is used and left. Raises MissingExtra without Ray, BadInput
    when no cluster answers.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtra("ray", "scale") from error
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(
            address=None if address == LOCAL else address,
            log_to_driver=False,
            include_dashboard=False if address == LOCAL else None,
            logging_level="ERROR",
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(
            f"‹ray={address}›: no cluster answers: {reason}; start one with `ray start --head`, "
            "or write `local`"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


class ClusterEncoder:
    """An encoder whose passages are encoded by tasks on the cluster; queries are encoded here.

    gpus: of each task, a share of one too; 0 for none. A node whose encoder is another one (by its
    fingerprint) is refused.
    """

    def __init__(
        self, ray: Any, name: str = DEFAULT, *, batch_size: int = 64, gpus: float = 0.0
    ) -> None:
        self._ray = ray
        self._own = load_encoder(name, batch_size=batch_size)
        self._batch_size = batch_size
        self._gpus = gpus
        asked = {"num_gpus": gpus} if gpus else {}
        self._task = ray.remote(max_retries=-1, **asked)(_encode)
        self.name = self._own.name

    @property
    def dimension(self) -> int:
        """d."""
        return self._own.dimension

    @property
    def description(self) -> Mapping[str, Any]:
        """That of the encoder itself."""
        return described(self._own)

    @property
    def fingerprint(self) -> str:
        """That of the encoder itself: where it ran makes no other index."""
        return self._own.fingerprint

    def encode_stream(self, texts: Iterable[list[str]]) -> Iterator[np.ndarray]:
        """float32 [n, d] for each list of n texts, in order, with tasks for several under way.

        As many lists are sent ahead as keep every worker busy while the first is waited for.
        """
        import numpy as np

        under_way: deque[list[Any]] = deque()
        source = iter(texts)
        while True:
            while sum(map(len, under_way)) < _AHEAD * self._workers():
                some = next(source, None)
                if some is None:
                    break
                under_way.append(self._sent(some))
            if not under_way:
                return
            parts = [self._vectors(found) for found in self._collected(under_way.popleft())]
            yield np.concatenate(parts)

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, d] unit vectors, in the order of the texts."""
        import numpy as np

        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        return next(self.encode_stream([list(texts)]))

    def _sent(self, texts: list[str]) -> list[Any]:
        parts = [texts[i : i + _TASK] for i in range(0, len(texts), _TASK)]
        return [self._task.remote(self.name, self._batch_size, part) for part in parts]

    def _collected(self, pending: list[Any]) -> list[Any]:
        try:
            return list(self._ray.get(pending))
        except self._ray.exceptions.RayError as error:
            raise NeuroritError(
                f"‹ray›: encoding failed on the cluster: {cause_of(error)}"
            ) from error

    def _vectors(self, made: tuple[Any, str, str]) -> Any:
        vectors, fingerprint, node = made
        if fingerprint != self.fingerprint:
            raise NeuroritError(
                f"‹ray›: node {node} has another encoder under the name {self.name!r}; "
                "install the same version there"
            )
        return vectors

    def _workers(self) -> int:
        """Tasks that the cluster runs at once, as it is now: nodes come and go."""
        there = self._ray.cluster_resources()
        workers = there.get("GPU", 0.0) / self._gpus if self._gpus else there.get("CPU", 1.0)
        return max(1, int(workers))

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, d] unit vectors of queries."""
        return self._own.encode_queries(texts)


class ClusterIndex:
    """Index artifacts, each segment of them held by an actor, searched as one.

    directories must be readable on every node, and hold no passage twice. Raises ArtifactError for
    one that cannot be loaded. One that is changed afterwards is searched as it was; an actor that
    must load it again fails then, with every search.
    """

    def __init__(
        self,
        ray: Any,
        directories: Sequence[Path],
        encoder: Encoder,
        *,
        effort: int | None = None,
    ) -> None:
        if not directories:
            raise BadInput("a cluster's index needs at least one index directory")
        segments = []
        for directory in directories:
            # Checked once here, and not by every actor: each would hash the whole index.
            manifest = read_index_manifest(directory)
            known = str(manifest.made["fingerprint"])
            if encoder.fingerprint != known:
                raise ArtifactError(
                    f"{directory} was built with another encoder than {encoder.name!r} now is; "
                    "build it again with `neurorit-rag index`"
                )
            where = str(Path(directory).resolve())
            digest = manifest_digest(manifest)
            names = [str(one["name"]) for one in manifest.made["segments"]]
            segments += [(where, digest, name, known) for name in names]
        self._ray = ray
        self.encoder = encoder
        actor = ray.remote(max_restarts=-1, max_task_retries=-1)(_Shard)
        self._shards = [actor.remote(*segment, effort) for segment in segments]
        self._sizes: list[int] = self._get([shard.size.remote() for shard in self._shards])

    def __len__(self) -> int:
        return sum(self._sizes)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """For each query its k nearest passages over all shards, best first."""
        if k < 1:
            raise BadInput(f"k must be at least 1, not {k}")
        if not queries:
            return []
        return self.search_vectors(self.encoder.encode_queries(queries), k)

    def search_vectors(self, queries: Any, k: int) -> list[list[Hit]]:
        """The same for queries that are encoded already: float32 [n, d]."""
        from neurorit.retrieval.index.index import Hit

        vectors = self._ray.put(queries)
        found = self._get([shard.search.remote(vectors, k) for shard in self._shards])
        merged = []
        for of_query in zip(*found, strict=True):
            best = heapq.nlargest(k, (hit for hits in of_query for hit in hits), key=_by_score)
            merged.append([Hit(h.passage, h.score, rank) for rank, h in enumerate(best, start=1)])
        return merged

    def passage(self, passage_id: str) -> Passage:
        """The passage of that id; raises BadInput if no shard has it."""
        for found in self._get([shard.passage.remote(passage_id) for shard in self._shards]):
            if found is not None:
                passage: Passage = found
                return passage
        raise BadInput(f"the index has no passage {passage_id!r}")

    def _get(self, pending: list[Any]) -> list[Any]:
        try:
            return list(self._ray.get(pending))
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, NeuroritError):
                raise cause from error
            raise NeuroritError(f"the cluster's index failed: {cause_of(error)}") from error
        except self._ray.exceptions.RayError as error:
            raise NeuroritError(f"the cluster's index failed: {cause_of(error)}") from error


class _Shard:
    """What an actor holds: one segment of an index artifact, without its encoder.

    digest: of the index's manifest. An actor is started anew on another node, maybe days later:
    segments of two versions would be searched as one. Raises ArtifactError for another version.
    """

    def __init__(
        self, directory: str, digest: str, segment: str, fingerprint: str, effort: int | None
    ) -> None:
        from neurorit.retrieval.index.index import Index

        self._index = Index.load(
            Path(directory),
            encoder=_Fingerprint(fingerprint),
            effort=effort,
            segments=[segment],
            verify=False,
        )
        if self._index.digest != digest:
            raise ArtifactError(
                f"{directory} was changed after the cluster had loaded it; load it again"
            )

    def size(self) -> int:
        return len(self._index)

    def search(self, vectors: np.ndarray, k: int) -> list[list[Hit]]:
        return self._index.search_vectors(vectors, k)

    def passage(self, passage_id: str) -> Passage | None:
        return self._index.passage(passage_id) if passage_id in self._index else None


class _Fingerprint:
    """Stands for the encoder where only its fingerprint is needed: vectors come from elsewhere."""

    name = "elsewhere"
    dimension = 0

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        raise AssertionError("the cluster's workers encode")

    encode_queries = encode_passages


_loaded: dict[tuple[str, int], Encoder] = {}


def _encode(name: str, batch_size: int, texts: list[str]) -> tuple[np.ndarray, str, str]:
    """Vectors, the encoder's fingerprint and the node; the encoder stays in its process."""
    import ray

    key = (name, batch_size)
    if key not in _loaded:
        _loaded[key] = load_encoder(name, batch_size=batch_size)
    encoder = _loaded[key]
    node = ray.get_runtime_context().get_node_id()
    return encoder.encode_passages(texts), encoder.fingerprint, str(node)


def _by_score(hit: Hit) -> float:
    return hit.score


def cause_of(error: Exception) -> str:
    """Why something failed on the cluster: the last line of what Ray says."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
