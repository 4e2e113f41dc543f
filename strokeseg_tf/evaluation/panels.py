"""What a figure of the statistics shows, as plain numbers, before anything is drawn.

`plots` draws it for papers, `report.charts` for the browser: both show the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from strokeseg_tf.evaluation.display import RUN_COLOURS

BAND_COLOURS = ("#b3261e", "#e08e45", "#e9c46a", "#a8c686", "#5aa469", "#1f7a4d")


@dataclass(frozen=True)
class Series:
    """Numbers under one name.

    Attributes:
        kind: "points", "line" (with points), "chosen" (diamonds, not in the legend), "box" (values
            `y`, all at one `x`) or "bar" (stacked).
        name: what the legend says.
        x: numbers.
        y: numbers; None leaves a gap.
        colour: "#rrggbb".
        texts: a word on each point; that of a study is its id and nothing else.
        errors: half the length of a bar through each point.
    """

    kind: str
    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: str
    texts: Sequence[str] = ()
    errors: Sequence[float] = ()


@dataclass(frozen=True)
class Level:
    """A horizontal line over the whole panel, and the confidence interval of its height."""

    value: float
    label: str
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        """ "bias −0.03"."""
        return f"{self.label} {self.value:.2f}".replace(" -", " −")


@dataclass(frozen=True)
class Panel:
    """One pair of axes; `bands` are named stripes (low, high, name), `ticks` name x = 0, 1, ..."""

    title: str
    x_title: str
    y_title: str
    series: Sequence[Series]
    levels: Sequence[Level] = ()
    bands: Sequence[tuple[float, float, str]] = ()
    ticks: Sequence[str] = ()
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    diagonal: bool = False


@dataclass(frozen=True)
class Plot:
    """A figure: its file's name, section, caption and panels."""

    name: str
    heading: str
    caption: str
    panels: Sequence[Panel]


def run_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour per run, in order of appearance."""
    unique = list(dict.fromkeys(names))
    return {name: RUN_COLOURS[at % len(RUN_COLOURS)] for at, name in enumerate(unique)}
