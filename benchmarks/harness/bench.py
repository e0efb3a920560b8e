"""What every benchmark shares: timing side by side, peak memory, and one form of result."""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Bench:
    """Results of one benchmark. ratios: ours against a rival of the same run.

    skipped: why nothing was measured, where nothing was.
    """

    name: str
    settings: Mapping[str, Any]
    results: list[dict[str, Any]] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    skipped: str = ""

    def add(self, system: str, metric: str, value: float, unit: str) -> None:
        """One measured figure."""
        self.results.append({"system": system, "metric": metric, "value": value, "unit": unit})
        print(f"  {system}: {metric} {value:.4g} {unit}", file=sys.stderr, flush=True)

    def finish(self, as_json: bool) -> None:
        """Print the JSON object, or the ratios for a person."""
        import torch

        from neurorit.core.cores import usable_cores

        machine = {
            "cores": usable_cores(),
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        }
        document = {
            "name": self.name,
            "settings": {**self.settings, "machine": machine},
            "results": self.results,
            "ratios": self.ratios,
            **({"skipped": self.skipped} if self.skipped else {}),
        }
        if as_json:
            print(json.dumps(document, indent=2))
            return
        if self.skipped:
            print(f"skipped: {self.skipped}")
        for name, value in self.ratios.items():
            print(f"{name}: {value:.3g}")


def options(text: str) -> argparse.ArgumentParser:
    """A parser with --json."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def seconds(work: Callable[[], Any], *, repeats: int = 5, warm: int = 1) -> float:
    """Median wall-clock seconds of a call, after `warm` calls that are not counted."""
    return interleaved({"": work}, repeats=repeats, warm=warm)[""]


def interleaved(
    works: Mapping[str, Callable[[], Any]], *, repeats: int = 5, warm: int = 1
) -> dict[str, float]:
    """Median seconds of each; they take turns, so that a slow moment of the machine hits all."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(warm + repeats):
        for name, work in works.items():
            synchronize()
            started = time.perf_counter()
            work()
            synchronize()
            if turn >= warm:
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in taken.items()}


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_of(script: str, *arguments: str) -> float:
    """Bytes that a script's own measurement of peak memory prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, check=True
    )
    return float(done.stdout.strip().splitlines()[-1])


def peak_above_now(work: Callable[[], Any]) -> float:
    """Bytes by which the process's (or the GPU's) memory rises at most during a call."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return float(torch.cuda.max_memory_allocated() - before)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as stream:
        stream.write("5")  # the peak is counted from now on
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def _resident(name: str) -> float:
    try:
        with open("/proc/self/status", encoding="ascii") as stream:
            line = next(line for line in stream if line.startswith(name))
        return float(line.split()[1]) * 1024
    except OSError:
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for a person, on stderr."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    print(f"\n{title}", file=sys.stderr)
    for row in [head, *rows]:
        cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  " + "  ".join(cells), file=sys.stderr, flush=True)


def random_llama(**config: Any) -> Any:
    """A Llama of random weights, the same ones at every call."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**config))
