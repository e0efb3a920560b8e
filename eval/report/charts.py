"""The report's charts as inline SVG strings, drawn by hand so that they follow the page's colours.

Colours come from CSS classes (`s-NAME` per system), so light and dark need no second drawing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH = 420
_NAMED = 6  # points on the frontier whose names stand beside them
_STACK = ("rel", "shared", "irrel")
_STACK_NAMES = {"rel": "relevant only", "shared": "shared", "irrel": "irrelevant only"}


class Point(NamedTuple):
    """A value with its 95 % interval; x is a count of passages."""

    x: float
    y: float
    low: float
    high: float


def noise_curve(
    series: Mapping[str, Sequence[Point]], kind: str = "distractor", metric: str = "Exact match"
) -> str:
    """A metric against the number of noisy passages, a line per system, whiskers at 95 %."""
    height, left, right, top, bottom = 250, 46, 78, 14, 42
    points = [p for line in series.values() for p in line]
    floor = math.floor(min(p.low for p in points) * 5 - 1e-9) / 5
    floor = max(0.0, min(0.8, floor))
    last = max(1.0, *(p.x for p in points))

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + 8 + (WIDTH - left - right - 16) * x / last,
            top + (height - top - bottom) * (1 - (y - floor) / (1 - floor)),
        )

    parts = []
    for step in range(round(floor * 5), 6):
        _, y = at(0, step / 5)
        parts.append(
            f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(left - 6, y + 4, f"{20 * step}%", "end"))
    for x in sorted({p.x for p in points}):
        parts.append(_text(at(x, 0)[0], height - bottom + 20, f"{x:g}", "middle"))
    parts.append(
        _text(at(last / 2, 0)[0], height - 6, f"{kind} passages beside the gold one", "middle")
    )
    ends: list[tuple[float, str]] = []
    for i, (name, line) in enumerate(series.items()):
        # A small sideways shift keeps whiskers of equal counts apart.
        shift = 3.0 * (i - (len(series) - 1) / 2)
        spots = [(at(p.x, p.y)[0] + shift, at(p.x, p.y)[1]) for p in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        drawn = [f'<polyline class="line" points="{path}"/>']
        for p, (x, y) in zip(line, spots, strict=True):
            drawn.append(
                f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" '
                f'y1="{at(0, p.low)[1]:.1f}" y2="{at(0, p.high)[1]:.1f}"/>'
            )
            drawn.append(_marker(i, x, y))
        parts.append(f'<g class="{css_class(name)}">{"".join(drawn)}</g>')
        ends.append((spots[-1][1], name))
    for y, name in _spread(ends, 16, top + 6, height - bottom):
        parts.append(
            _text(WIDTH - right + 6, y + 4, _short(name), "start", f"label {css_class(name)}")
        )
    words = "; ".join(
        f"{name}: " + ", ".join(f"{p.x:g} noisy {100 * p.y:.1f}%" for p in line)
        for name, line in series.items()
    )
    return _svg(height, f"{metric} against the number of {kind} passages", words, parts)


def refusal_bars(rows: Sequence[tuple[str, Point | None, Point | None]]) -> str:
    """Share of refusals per system: (name, where the answer is there, where it is not)."""
    block, left, right, top = 48, 78, 52, 4
    height = top + block * len(rows) + 26
    span = WIDTH - left - right
    parts = [
        f'<line class="grid" x1="{left + span * t / 4:.1f}" x2="{left + span * t / 4:.1f}" '
        f'y1="{top}" y2="{height - 24}"/>'
        + _text(left + span * t / 4, height - 8, f"{25 * t}%", "middle")
        for t in range(5)
    ]
    words = []
    for i, (name, clean, noise) in enumerate(rows):
        y = top + block * i + 5
        drawn = [_text(left - 8, y + 24, _short(name), "end", f"label {css_class(name)}")]
        for row, (point, kind) in enumerate(((noise, "wanted"), (clean, "unwanted"))):
            if point is None:
                continue
            bar = y + 20 * row
            drawn.append(
                f'<rect class="bar {kind}" x="{left}" y="{bar}" rx="2" height="16" '
                f'width="{max(1.0, span * point.y):.1f}"/>'
            )
            drawn.append(
                f'<line class="range" x1="{left + span * point.low:.1f}" '
                f'x2="{left + span * point.high:.1f}" y1="{bar + 8}" y2="{bar + 8}"/>'
            )
            edge = left + span * max(point.y, point.high) + 5
            drawn.append(_text(edge, bar + 12.5, f"{100 * point.y:.1f}", "start", "value"))
            words.append(
                f"{name} {'without' if kind == 'wanted' else 'with'} evidence {100 * point.y:.1f}%"
            )
        parts.append(f'<g class="{css_class(name)}">{"".join(drawn)}</g>')
    return _svg(height, "Share of refusals with and without evidence", "; ".join(words), parts)


class Place(NamedTuple):
    """A system on the frontier: x and y are (value, low, high), with 95 % intervals.

    family: systems of one are joined in their order, such as one method's learning rates.
    """

    name: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]
    dominated: bool
    family: str = ""


def frontier(places: Sequence[Place]) -> str:
    """Robustness against retention, a point for each system; dominated ones are hollow.

    Of a few systems the names stand at their points; of more, numbers, with the names below.
    """
    height, left, right, top, bottom = 320, 46, 26, 14, 42
    numbered = len(places) > _NAMED
    x_floor = _floor(min(place.x[1] for place in places))
    y_floor = _floor(min(place.y[1] for place in places))
    # Room for a name above the highest point.
    y_most = min(1.0, math.ceil(max(place.y[2] for place in places) * 20 + 1) / 20)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (WIDTH - left - right) * (x - x_floor) / (1 - x_floor),
            top + (height - top - bottom) * (1 - (y - y_floor) / (y_most - y_floor)),
        )

    parts = []
    for value in (tick for tick in _ticks(y_floor) if tick <= y_most + 1e-9):
        _, y = at(x_floor, value)
        parts.append(
            f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(left - 6, y + 4, f"{100 * value:.0f}%", "end"))
    for value in _ticks(x_floor):
        x, _ = at(value, y_floor)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - bottom}"/>'
        )
        parts.append(_text(x, height - bottom + 18, f"{100 * value:.0f}%", "middle"))
    parts.append(_text((left + WIDTH - right) / 2, height - 6, "retention", "middle"))
    parts.append(_text(left + 4, top + 12, "robustness", "start"))
    spots = [at(place.x[0], place.y[0]) for place in places]
    for family in dict.fromkeys(place.family for place in places if place.family):
        joined = [spot for place, spot in zip(places, spots, strict=True) if place.family == family]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in joined)
        parts.append(f'<polyline class="joined" points="{path}"/>')
    for i, (place, (x, y)) in enumerate(zip(places, spots, strict=True)):
        (x_low, y_low), (x_high, y_high) = (
            at(place.x[1], place.y[1]),
            at(place.x[2], place.y[2]),
        )
        hollow = " hollow" if place.dominated else ""
        parts.append(
            f'<g class="{css_class(place.name)}{hollow}">'
            f'<line class="whisker" x1="{x_low:.1f}" x2="{x_high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{y_low:.1f}" y2="{y_high:.1f}"/>'
            f"{_marker(i, x, y)}</g>"
        )
    names = [f"{place.name} (dominated)" if place.dominated else place.name for place in places]
    if numbered:
        columns = 2 if max(map(len, names)) <= 20 else 1
        for i, (place, name, (x, y)) in enumerate(zip(places, names, spots, strict=True)):
            css = f"label {css_class(place.name)}"
            parts.append(_text(x + 6, y - 6, str(i + 1), "start", css))
            row, column = divmod(i, columns)
            x, y = 8 + column * WIDTH / 2, height + 14 + 15 * row
            parts.append(_text(x, y, f"{i + 1}  {name}", "start", css))
        height += 22 + 15 * math.ceil(len(places) / columns)
    else:
        ends = [(at(*(place.x[0], place.y[2]))[1] - 5, place.name) for place in places]
        heights = {name: y for y, name in _spread(ends, 15, top + 12, height - bottom - 4)}
        for place, name, (x, _) in zip(places, names, spots, strict=True):
            # A name stands above its point, and keeps within the frame.
            anchor = "start" if x < left + 70 else "end" if x > WIDTH - right - 70 else "middle"
            css = f"label {css_class(place.name)}"
            # At the frame it stands beside the whisker, which may go up through it.
            beside = x + {"start": 6, "end": -6}.get(anchor, 0)
            parts.append(_text(beside, heights[place.name], name, anchor, css))
    words = "; ".join(
        f"{p.name}: retention {100 * p.x[0]:.1f}%, robustness {100 * p.y[0]:.1f}%"
        + (", dominated" if p.dominated else "")
        for p in places
    )
    return _svg(height, "Robustness against retention", words, parts)


def _floor(least: float) -> float:
    """Where an axis begins: the next fifth below, and room for a point at the top."""
    return max(0.0, min(0.8, math.floor(least * 5 - 1e-9) / 5))


def _ticks(floor: float) -> list[float]:
    step = 0.05 if floor >= 0.8 else 0.1 if floor >= 0.6 else 0.2
    return [floor + step * i for i in range(round((1 - floor) / step) + 1)]


def layer_bars(counts: Mapping[str, Sequence[int]]) -> str:
    """Neurons of the three mined sets per layer, stacked; counts: rel, shared, irrel -> [L]."""
    height, left, top, bottom = 260, 44, 30, 40
    depth = len(counts["rel"])
    totals = [sum(int(counts[name][layer]) for name in _STACK) for layer in range(depth)]
    tallest = max([1, *totals])
    slot = (WIDTH - left - 8) / max(1, depth)
    scale = (height - top - bottom) / tallest
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = height - bottom - scale * tallest * share
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(left - 6, y + 4, f"{tallest * share:.0f}", "end"))
    for layer in range(depth):
        y = float(height - bottom)
        x = left + slot * layer + slot * 0.14
        for name in _STACK:
            tall = scale * int(counts[name][layer])
            y -= tall
            parts.append(
                f'<rect class="stack-{name}" x="{x:.1f}" y="{y:.1f}" '
                f'width="{slot * 0.72:.1f}" height="{tall:.1f}"/>'
            )
        if depth <= 16 or layer % math.ceil(depth / 12) == 0:
            parts.append(_text(x + slot * 0.36, height - bottom + 18, str(layer), "middle"))
    parts.append(_text(left + (WIDTH - left - 8) / 2, height - 4, "layer", "middle"))
    x = float(left)
    for name in _STACK:
        parts.append(f'<rect class="stack-{name}" x="{x}" y="6" width="11" height="11" rx="2"/>')
        parts.append(_text(x + 16, 16, _STACK_NAMES[name], "start"))
        x += 30 + 7.2 * len(_STACK_NAMES[name])
    words = "; ".join(
        f"layer {layer}: " + ", ".join(f"{counts[n][layer]} {_STACK_NAMES[n]}" for n in _STACK)
        for layer in range(depth)
    )
    return _svg(height, "Mined neurons per layer", words, parts)


def css_class(system: str) -> str:
    """The CSS class that gives a system its colour."""
    return "s-" + "".join(c if c.isalnum() or c == "-" else "-" for c in system.lower())


def _svg(height: float, title: str, words: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title><desc>{escape(words)}</desc>{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, words: str, anchor: str, css: str = "tick") -> str:
    return (
        f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
    )


def _short(name: str) -> str:
    """A name that fits beside a chart; its description has the whole one."""
    return name if len(name) <= 11 else f"{name[:10]}\u2026"


def _marker(kind: int, x: float, y: float) -> str:
    """Shapes beside colours, so that the lines differ without colour too."""
    shapes = (
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.2"/>',
        f'<rect class="dot" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>',
        f'<path class="dot" d="M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"/>',
        f'<path class="dot" d="M{x:.1f} {y - 5:.1f}l5 9h-10z"/>',
    )
    return shapes[kind % len(shapes)]


def _spread(
    ends: Sequence[tuple[float, str]], gap: float, top: float, bottom: float
) -> list[tuple[float, str]]:
    """Move labels apart until each pair is `gap` from the next, inside top and bottom."""
    placed: list[tuple[float, str]] = []
    for y, name in sorted(ends):
        placed.append((max(y, placed[-1][0] + gap if placed else top), name))
    limit = bottom
    for i in range(len(placed) - 1, -1, -1):
        placed[i] = (min(placed[i][0], limit), placed[i][1])
        limit = placed[i][0] - gap
    return placed
