"""A Ray cluster of several nodes on this machine, for tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def nodes_of_ray(cpus: int) -> Iterator[Any]:
    """A cluster whose head has so many processors; start its other nodes by `started`."""
    # A busy machine takes longer than Ray's own thirty seconds to start a node, and leaves next to
    # nothing to workers of a lower priority.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
    os.environ.setdefault("RAY_worker_niceness", "0")
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": cpus, "include_dashboard": False}
    made = started(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        yield made
    finally:
        made.shutdown()


def started(start: Callable[[], Any]) -> Any:
    """A node of Ray; skips where the machine is too busy for the half minute that Ray gives it."""
    try:
        return start()
    except Exception as error:
        if "timed out during startup" in str(error):
            pytest.skip(f"Ray's node does not start here: {error}")
        raise
