"""Peak memory of `index` with given vectors and --memory 1GB, for one and two million passages.

Of any kind: `--kind ivf-pq`. The figure is the highest resident size, mapped files
included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.bench import Bench, options

DIMENSION = 384


def main() -> None:
    """Measure and print."""
    parser = options(__doc__ or "")
    parser.add_argument("--passages", type=int, nargs="+", default=[1_000_000, 2_000_000])
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--kind", default="flat")
    given = parser.parse_args()
    settings = {"passages": given.passages, "memory": given.memory, "kind": given.kind}
    bench = Bench("index_memory", settings)
    peaks = []
    for passages in given.passages:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _write(folder, passages)
            command = [sys.executable, "-m", "neurorit.cli", "index", str(folder / "corpus.jsonl")]
            command += ["--out", str(folder / "index"), "--memory", given.memory]
            command += ["--vectors", str(folder / "vectors.npy"), "--trust-vectors"]
            command += ["--kind", given.kind]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(usage[1])
            assert process.returncode == 0
            peaks.append(usage[2].ru_maxrss * 1024)
            bench.add("index", f"peak of {passages}", peaks[-1] / 10**9, "GB")
            bench.add("index", f"CPU of {passages}", usage[2].ru_utime + usage[2].ru_stime, "s")
    bench.ratios["peak_growth"] = peaks[-1] / peaks[0]
    bench.finish(given.json)


def _write(folder: Path, passages: int) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    with open(folder / "corpus.jsonl", "w", encoding="utf-8") as stream:
        for i in range(passages):
            stream.write(json.dumps({"id": f"p{i}", "text": f"Passage {i} of the made-up ones."}))
            stream.write("\n")
    shape = (passages, DIMENSION)
    with open(folder / "vectors.npy", "wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, passages, 50_000):
            size = (min(50_000, passages - start), DIMENSION)
            stream.write(rng.standard_normal(size, dtype=np.float32).tobytes())


if __name__ == "__main__":
    main()
