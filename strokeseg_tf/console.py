"""What a person sees: results on standard output, progress on standard error."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence


def print_json(content) -> None:
    """One JSON document on standard output."""
    print(json.dumps(content, indent=2))


def print_table(header: Sequence[str], rows: Sequence[Sequence]) -> None:
    """An aligned table on standard output; numbers to the right."""
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *texts, strict=True)]
    for row, cells in zip([header, *texts], [header, *rows], strict=True):
        print(
            "  ".join(
                text.rjust(width) if isinstance(cell, int | float) else text.ljust(width)
                for text, cell, width in zip(row, cells, widths, strict=True)
            ).rstrip()
        )


def _text(cell) -> str:
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def remark(text: str) -> None:
    """A line for the person, on standard error."""
    print(f"strokeseg-tf: {text}", file=sys.stderr)


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; nothing where that is no terminal.

    Yields:
        A function to call with (done, total).
    """
    with bars() as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def bars(transient=False):
    """A `rich.progress.Progress` on standard error; it shows nothing where that is no terminal.

    Args:
        transient: Whether bars vanish when it stops.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    off = not console.is_terminal
    return Progress(*columns, console=console, disable=off, transient=transient)
