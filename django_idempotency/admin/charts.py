"""
Stacked columns, and lines, as numbers for an SVG: widths in per cent of the page, heights in pixels, text at its own
size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby

PLOT = 160  # pixels from the top of the scale to the base line
ABOVE, BELOW = 10, 26  # pixels: half a line over the topmost tick, the labels under the base line
LEAST = 2  # pixels of what is not zero: one conflict among a million replays can be seen
TICKS = 4  # at most, above zero
CHARACTER = 7  # pixels that a digit of the axis takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One colour of the chart."""

    name: str  # a CSS class
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What is to be drawn of one hour or day."""

    values: tuple[int, ...]  # of each series; of a line, one or none
    title: str  # what a pointer over it is told
    label: str = ""  # under the base line


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One series' share of a bar."""

    name: str
    y: str
    height: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One column; *x* and *width* are those of the space between its neighbours, in which it stands, if not a line."""

    x: str
    width: str
    bar_x: str
    bar_width: str
    title: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A line of the scale, and its number."""

    y: str
    text_y: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A text under the base line."""

    x: str
    anchor: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """All that a template needs to draw it."""

    name: str  # for ids
    title: str
    description: str
    series: tuple[Series, ...]
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    labels: tuple[Label, ...]
    axis: int  # pixels that the labels of the ticks take
    line: str = ""  # SVG paths, one unit wide for each column, in pixels below the top of the scale
    area: str = ""

    height = ABOVE + PLOT + BELOW
    top = ABOVE
    plot = PLOT
    base = ABOVE + PLOT
    label_y = ABOVE + PLOT + 18


def stacked(
    name: str,
    title: str,
    description: str,
    series: Sequence[Series],
    columns: Sequence[Column],
    number: Callable[[int], str],
) -> Chart:
    """The chart of *columns*; *number* writes a number as the reader's language does."""
    return _chart(name, title, description, series, columns, number)


def line(
    name: str,
    title: str,
    description: str,
    columns: Sequence[Column],
    number: Callable[[int], str],
) -> Chart:
    """The chart of a level, one value in each of *columns*. One without a value is a gap."""
    chart = _chart(name, title, description, (), columns, number)
    scale = _scale(columns)[0]
    runs = [[(place, PLOT - column.values[0] * scale) for place, column in run] for run in _runs(columns)]
    # From edge to edge of its columns, level at both ends: one value alone can be seen, too.
    lines = [
        [(run[0][0], run[0][1]), *((place + 0.5, y) for place, y in run), (run[-1][0] + 1, run[-1][1])] for run in runs
    ]
    areas = [[(each[0][0], PLOT), *each, (each[-1][0], PLOT)] for each in lines]
    return replace(chart, line=_path(lines), area=_path(areas))


def _chart(
    name: str,
    title: str,
    description: str,
    series: Sequence[Series],
    columns: Sequence[Column],
    number: Callable[[int], str],
) -> Chart:
    scale, values = _scale(columns)
    texts = [number(value) for value in values]
    tops = [ABOVE + PLOT - value * scale for value in values]
    space = 100 / max(1, len(columns))
    return Chart(
        name=name,
        title=title,
        description=description,
        series=tuple(series),
        bars=tuple(_bar(place, space, column, series, scale) for place, column in enumerate(columns)),
        ticks=tuple(Tick(y=_pixels(y), text_y=_pixels(y + 4), label=text) for y, text in zip(tops, texts, strict=True)),
        labels=tuple(
            _label((place + 0.5) * space, column.label) for place, column in enumerate(columns) if column.label
        ),
        axis=CHARACTER * max(map(len, texts)) + 12,
    )


def _scale(columns: Sequence[Column]) -> tuple[float, range]:
    """Pixels for each one, and the values of the ticks."""
    highest = max((sum(column.values) for column in columns), default=0)
    step = tick_step(highest)
    steps = max(1, -(-highest // step))
    return PLOT / (steps * step), range(0, steps * step + 1, step)


def _runs(columns: Sequence[Column]) -> list[list[tuple[int, Column]]]:
    """The columns with a value, and their places: in one list as long as no gap is between them."""
    by_gap = groupby(enumerate(columns), key=lambda each: bool(each[1].values))
    return [list(run) for has_values, run in by_gap if has_values]


def _path(lines: Sequence[Sequence[tuple[float, float]]]) -> str:
    return " ".join("M" + " L".join(f"{x:g},{y:.1f}" for x, y in line) for line in lines)


def tick_step(highest: int) -> int:
    """The distance of the ticks: 1, 2 or 5 times a power of ten, so that at most TICKS reach up to *highest*."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power * TICKS >= highest:
                return factor * power
        power *= 10


def _bar(place: int, space: float, column: Column, series: Sequence[Series], scale: float) -> Bar:
    heights = [max(LEAST, value * scale) if value else 0.0 for value in column.values] if series else []
    share = 0.74 if space > 2 else 0.9  # of its space; many bars stand closer
    return Bar(
        x=_percent(place * space),
        width=_percent(space),
        bar_x=_percent((place + (1 - share) / 2) * space),
        bar_width=_percent(share * space),
        title=column.title,
        segments=tuple(
            Segment(name=each.name, y=_pixels(ABOVE + PLOT - top), height=_pixels(height))
            for each, height, top in zip(series, heights, accumulate(heights), strict=True)
            if height
        ),
    )


def _label(x: float, text: str) -> Label:
    """Centred under its column, but not beyond the edges."""
    anchor = "start" if x < 6 else "end" if x > 94 else "middle"
    return Label(x=_percent(0 if anchor == "start" else 100 if anchor == "end" else x), anchor=anchor, text=text)


# As text, not as numbers: a template would write a decimal comma where the reader's language has one.
def _percent(value: float) -> str:
    return f"{value:.3f}%"


def _pixels(value: float) -> str:
    return f"{value:.1f}"
