"""
Stacked columns and lines, as numbers for an SVG: widths in per cent of the page, heights in pixels, text in its own
size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

PLOT = 160  # pixels from the top of the scale to the base line
ABOVE, BELOW = 10, 26  # pixels: half a line above the topmost tick, the labels below the base line
LEAST = 2  # pixels of what is not zero: one conflict among a million replays stays visible
TICKS = 4  # at most, above zero
CHARACTER = 7  # pixels that a digit of the axis takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One hour or day: a value for each series; of a line, one or none."""

    values: tuple[int, ...]
    title: str  # shown under a pointer
    label: str = ""  # under the base line


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A column to be drawn: its rectangles as (CSS class, y, height), and the space that it has."""

    title: str
    space: tuple[str, str]  # x and width
    bar: tuple[str, str]  # x and width
    rectangles: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart to be drawn, as the template needs it."""

    name: str  # for ids
    title: str
    description: str
    series: dict[str, str]  # labels by CSS class
    bars: list[Bar]
    ticks: list[tuple[str, str, str]]  # y of the line, y of its text, text
    labels: list[tuple[str, str, str]]  # x, anchor, text
    axis: int  # pixels that the labels of the ticks take
    line: str = ""  # SVG paths, one unit wide for each column, in pixels below the top of the scale
    area: str = ""

    height = ABOVE + PLOT + BELOW
    top = ABOVE
    plot = PLOT
    base = ABOVE + PLOT
    label_y = ABOVE + PLOT + 18


def draw(
    name: str,
    title: str,
    description: str,
    columns: Sequence[Column],
    number: Callable[[int], str],
    series: dict[str, str] | None = None,
) -> Chart:
    """
    Draw *columns* stacked by *series*; without series, as the line of a level that has a gap where a column has no
    value. *number* formats a number in the reader's language.
    """
    highest = max((sum(column.values) for column in columns), default=0)
    step = tick_step(highest)
    values = range(0, max(1, -(-highest // step)) * step + 1, step)
    scale = PLOT / values[-1]  # pixels for each one
    texts = [number(value) for value in values]
    tops = [ABOVE + PLOT - value * scale for value in values]
    space = 100 / max(1, len(columns))
    lines = _lines(columns, scale) if series is None else []
    return Chart(
        name=name,
        title=title,
        description=description,
        series=series or {},
        bars=[_bar(place, space, column, series or {}, scale) for place, column in enumerate(columns)],
        ticks=[(_pixels(y), _pixels(y + 4), text) for y, text in zip(tops, texts, strict=True)],
        labels=[_label((place + 0.5) * space, column.label) for place, column in enumerate(columns) if column.label],
        axis=CHARACTER * max(map(len, texts)) + 12,
        line=_path(lines),
        area=_path([[(line[0][0], PLOT), *line, (line[-1][0], PLOT)] for line in lines]),
    )


def tick_step(highest: int) -> int:
    """The distance of the ticks: 1, 2 or 5 times a power of ten, so that at most TICKS reach up to *highest*."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power * TICKS >= highest:
                return factor * power
        power *= 10


def _lines(columns: Sequence[Column], scale: float) -> list[list[tuple[float, float]]]:
    """A line for each run of columns with a value. It reaches over their whole width, so one value alone is visible."""
    lines = []
    for has_value, run in groupby(enumerate(columns), key=lambda each: bool(each[1].values)):
        if has_value:
            points = [(place + 0.5, PLOT - column.values[0] * scale) for place, column in run]
            (first, first_y), (last, last_y) = points[0], points[-1]
            lines.append([(first - 0.5, first_y), *points, (last + 0.5, last_y)])
    return lines


def _path(lines: Sequence[Sequence[tuple[float, float]]]) -> str:
    return " ".join("M" + " L".join(f"{x:g},{y:.1f}" for x, y in line) for line in lines)


def _bar(place: int, space: float, column: Column, series: dict[str, str], scale: float) -> Bar:
    heights = [max(LEAST, value * scale) if value else 0.0 for value in column.values] if series else []
    share = 0.74 if space > 2 else 0.9  # of its space; many bars stand closer
    return Bar(
        title=column.title,
        space=(_percent(place * space), _percent(space)),
        bar=(_percent((place + (1 - share) / 2) * space), _percent(share * space)),
        rectangles=tuple(
            (name, _pixels(ABOVE + PLOT - top), _pixels(height))
            for name, height, top in zip(series, heights, accumulate(heights), strict=True)
            if height
        ),
    )


def _label(x: float, text: str) -> tuple[str, str, str]:
    """A label, centred under its column unless that would go beyond an edge."""
    anchor = "start" if x < 6 else "end" if x > 94 else "middle"
    return _percent(0 if anchor == "start" else 100 if anchor == "end" else x), anchor, text


# Strings, because a template would write numbers with the decimal comma of the reader's language.
def _percent(value: float) -> str:
    return f"{value:.3f}%"


def _pixels(value: float) -> str:
    return f"{value:.1f}"
