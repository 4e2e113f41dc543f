"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; cells are Markdown already, so names in them must be escaped."""
    return [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)]


def escape(text: str) -> str:
    """Keeps a name from ending its cell or turning into markup."""
    marks = {"\\": "\\\\", "|": "\\|", "*": "\\*", "<": "&lt;", "\n": " "}
    return text.translate(str.maketrans(marks))
