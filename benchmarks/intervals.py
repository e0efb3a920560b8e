"""Do the intervals cover, and does the paired test keep its level? On data with known truth.

Each setting draws correlated 0/1 answers of two systems (a shared normal difficulty per question
and cut-offs that give the wanted accuracy), and counts how often a 95 % interval holds the truth
and how often a test sees a difference that is not there. What the report uses is measured
beside what it does not.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from typing import Any

import numpy as np
from harness.bench import Bench, options, table
from scipy.stats import norm

from neurorit.eval.stats.intervals import (
    bootstrap_interval,
    paired_comparison,
    rate_intervals,
    sign_flip_exact,
    sign_flip_score,
)

SIZES = (200, 500)
ACCURACIES = (0.02, 0.5, 0.95)
CORRELATIONS = (0.3, 0.7)
CLUSTER = 4  # answers to one question, such as the conditions of distractor-mean
GAP = {0.02: 0.03, 0.5: 0.1, 0.95: -0.05}
SIMULATIONS = 4_000
DOCUMENTS, MEAN_DOCUMENT = (*range(1, 11), 20, 50, 100), 7
SIZES_OF_DOCUMENTS = ("equal", "unequal")
RESAMPLES = 2_000
COVERAGE = (0.93, 0.97)
# Level of the test -> bounds of its false positives; the small ones must only not be exceeded by
# much, for with few differing questions hardly any outcome reaches them.
LEVELS = {0.05: (0.04, 0.06), 0.005: (0.0, 0.0065), 0.001: (0.0, 0.0015)}


def draw(
    rng: np.random.Generator, n: int, accuracies: tuple[float, ...], rho: float, repeats: int
) -> Any:
    """Answers [systems, n, repeats]; rho: correlation over a question's latent normals."""
    shared = rng.standard_normal((1, n, 1)) * math.sqrt(rho)
    own = rng.standard_normal((len(accuracies), n, repeats)) * math.sqrt(1 - rho)
    cuts = norm.ppf(np.array(accuracies))[:, None, None]
    return (shared + own) < cuts


def settings() -> Iterator[tuple[int, float, float, int]]:
    """(questions, accuracy, correlation, answers a question)."""
    for n in SIZES:
        for accuracy in ACCURACIES:
            for rho in CORRELATIONS:
                for repeats in (1, CLUSTER):
                    yield n, accuracy, rho, repeats


def simulate(setting: tuple[int, float, float, int], simulations: int) -> dict[str, float]:
    """Shares over the simulations: coverage of each interval, false positives of each test."""
    n, accuracy, rho, repeats = setting
    rng = np.random.default_rng([n, int(1000 * accuracy), int(10 * rho), repeats])
    hits: dict[str, int] = defaultdict(int)
    other = accuracy + GAP[accuracy]
    for trial in range(simulations):
        a, b = draw(rng, n, (accuracy, accuracy), rho, repeats).mean(axis=2)
        low, high = bootstrap_interval(a, resamples=RESAMPLES, seed=trial)
        hits["rate: bootstrap"] += low <= accuracy <= high
        a, b = draw(rng, n, (other, accuracy), rho, repeats).mean(axis=2)
        low, high = paired_comparison(a, b, resamples=RESAMPLES, seed=trial).ci95
        hits["difference: bootstrap"] += low - 1e-12 <= GAP[accuracy] <= high + 1e-12
    shares = {name: count / simulations for name, count in hits.items()}
    return shares | rates(setting, 4 * simulations) | tests(setting, 4 * simulations)


def rates(setting: tuple[int, float, float, int], simulations: int) -> dict[str, float]:
    """Coverage of the report's interval of a rate alone, which is quick."""
    n, accuracy, rho, repeats = setting
    rng = np.random.default_rng([n, int(1000 * accuracy), int(10 * rho), repeats, 1])
    held = 0
    for _ in range(simulations):
        values = draw(rng, n, (accuracy,), rho, repeats)[0].mean(axis=1)
        low, high = rate_intervals(values[:, None])[0]
        held += low <= accuracy <= high
    return {"rate: Wilson": held / simulations}


def tests(setting: tuple[int, float, float, int], simulations: int) -> dict[str, float]:
    """False positives of both tests, also at the small levels where Holm's correction looks."""
    n, accuracy, rho, repeats = setting
    rng = np.random.default_rng([n, int(1000 * accuracy), int(10 * rho), repeats, 2])
    ps = np.empty((simulations, 2))
    for trial in range(simulations):
        a, b = draw(rng, n, (accuracy, accuracy), rho, repeats).mean(axis=2)
        ps[trial] = sign_flip_score(a - b), sign_flip_exact(a - b, unit=1 / repeats)
    names = ("test: score", "test: exact")
    return {
        f"{name} at {level}": float((ps[:, i] <= level).mean())
        for i, name in enumerate(names)
        for level in LEVELS
    }


def clustered(setting: tuple[int, float, str], simulations: int) -> dict[str, float]:
    """Questions in documents of equal or of very unequal size, by document: no difference is there.

    A fifth of a question's latent normal is its document's, and 0.15 more that of each system.
    """
    documents, accuracy, sizes = setting
    rng = np.random.default_rng([documents, int(1000 * accuracy), 3, sizes == "equal"])
    hits: dict[str, float] = defaultdict(float)
    for _ in range(simulations):
        drawn = rng.geometric(1 / MEAN_DOCUMENT, documents)
        if sizes == "equal":
            drawn = np.full(documents, MEAN_DOCUMENT)
        place = np.repeat(np.arange(documents), drawn)
        shared = rng.standard_normal(documents)[place] * math.sqrt(0.2)
        shared = shared + rng.standard_normal(len(place)) * math.sqrt(0.3)
        a, b = (
            shared
            + rng.standard_normal(documents)[place] * math.sqrt(0.15)
            + rng.standard_normal(len(place)) * math.sqrt(0.35)
            < norm.ppf(accuracy)
            for _ in range(2)
        )
        labels = [str(number) for number in place]
        low, high = rate_intervals(a.astype(float)[:, None], labels)[0]
        hits["rate: Wilson"] += low <= accuracy <= high
        hits["rate: width"] += high - low
        found = paired_comparison(a, b, labels)
        hits["difference: test inverted"] += found.ci95[0] <= 0 <= found.ci95[1]
        hits["test: score at 0.05"] += found.p <= 0.05
    return {name: count / simulations for name, count in hits.items()}


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--simulations", type=int, default=SIMULATIONS)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--rates-only", action="store_true", help="only the interval of a rate")
    parser.add_argument("--tests-only", action="store_true", help="only the paired test")
    parser.add_argument("--clusters-only", action="store_true", help="only clusters of questions")
    chosen = parser.parse_args()
    bench = Bench("statistics", {"simulations": chosen.simulations, "resamples": RESAMPLES})
    used = ("rate: Wilson", "difference: bootstrap")
    rows, missed = [], []
    everything = [] if chosen.clusters_only else list(settings())
    by_document = [(n, a, s) for s in SIZES_OF_DOCUMENTS for n in DOCUMENTS for a in (0.5, 0.9)]
    if chosen.rates_only or chosen.tests_only:
        by_document = []
    job = rates if chosen.rates_only else tests if chosen.tests_only else simulate
    with ProcessPoolExecutor(chosen.workers) as pool:
        measured = list(pool.map(job, everything, repeat(chosen.simulations)))
        grouped = list(pool.map(clustered, by_document, repeat(chosen.simulations)))
    lines = []
    for (documents, accuracy, sizes), shares in zip(by_document, grouped, strict=True):
        name = f"{documents} documents of {sizes} size, accuracy {accuracy}"
        for metric, share in shares.items():
            bench.add(name, metric, share, "share")
        lines.append([str(documents), sizes, str(accuracy)])
        lines[-1] += [f"{v:.3f}" for v in shares.values()]
        for metric in ("rate: Wilson", "difference: test inverted"):
            # Of few documents an interval may say too little, but not too much.
            if shares[metric] < COVERAGE[0]:
                missed.append(f"{name}: {metric} {shares[metric]:.4f}")
    for (n, accuracy, rho, repeats), shares in zip(everything, measured, strict=True):
        name = f"n {n}, accuracy {accuracy}, correlation {rho}, {repeats} a question"
        for metric, share in shares.items():
            bench.add(name, metric, share, "share")
            if metric in used:
                low, high = COVERAGE
            elif metric.startswith("test: score"):
                low, high = LEVELS[float(metric.rpartition(" ")[2])]
            else:
                continue
            if not low <= share <= high:
                missed.append(f"{name}: {metric} {share:.4f}")
        kinds = ["rate: Wilson", "rate: bootstrap", "difference: bootstrap"]
        kinds += [f"test: score at {level}" for level in LEVELS] + ["test: exact at 0.05"]
        cells = [f"{shares[kind]:.4f}" if kind in shares else "" for kind in kinds]
        rows.append([str(n), str(accuracy), str(rho), str(repeats), *cells])
    head = ["n", "accuracy", "corr.", "answers", "Wilson", "(boot)", "difference"]
    if rows:
        table("Coverage and false positives", [*head, "p .05", ".005", ".001", "(exact)"], rows)
    if lines:
        head = ["documents", "sizes", "accuracy", "rate", "its width", "difference", "p .05"]
        table(
            "Clustered by document: one is refused by a run, few are covered too often", head, lines
        )
    for line in missed:
        print(f"outside its bounds: {line}", file=sys.stderr)
    bench.ratios = {"settings": len(rows), "outside bounds": len(missed)}
    bench.finish(chosen.json)


if __name__ == "__main__":
    main()
