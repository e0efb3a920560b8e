"""What is its caller's, and is given back as it was: random states, and what transformers tells."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the global generators of Python, NumPy and torch, and the verbosity of transformers.

    The Trainer seeds all three with one number and says less: in a notebook the next draw of five
    trainings would be the same one five times.
    """
    from transformers.utils import logging

    told, drawn, numpy_drawn = logging.get_verbosity(), random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(drawn)
        np.random.set_state(numpy_drawn)
        logging.set_verbosity(told)
