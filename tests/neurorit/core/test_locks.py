"""One at a time in a file: who waits is told, and a file system without locks stops nobody."""

from __future__ import annotations

import errno
import fcntl
import threading
from pathlib import Path

import pytest

from neurorit.core.errors import BadInput
from neurorit.core.locks import locked, waited_for


def test_the_second_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    told, order = threading.Event(), []

    def second() -> None:
        with waited_for(tmp_path / "x.lock", told.set):
            order.append("second")

    with waited_for(tmp_path / "x.lock", lambda: pytest.fail("nobody holds it")):
        thread = threading.Thread(target=second)
        thread.start()
        assert told.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with waited_for(tmp_path / "x.lock", lambda: pytest.fail("nobody holds it")):
        pass
    with (
        pytest.raises(BadInput, match="takes no locks"),
        locked(tmp_path / "x.lock", "busy"),
    ):
        pass
