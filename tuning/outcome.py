"""What stands in the folder of a search when it has ended."""

import json
from pathlib import Path

from tfrecord_tools.atomic import write_text
from tuning.plan import Plan
from tuning.results import RESULT, read_results, write_tables

#: How many trials the search had when all of them had ended.
FINISHED = "finished.json"


def is_finished(folder: Path, trials: int) -> bool:
    """Whether a search of so many trials has come to its end, and no result was removed since."""
    try:
        before = json.loads((folder / FINISHED).read_text(encoding="utf-8"))["trials"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
    return before >= trials and all((t / RESULT).is_file() for t in folder.glob("trial_*"))


def conclude(folder: Path, plan: Plan, trials: int) -> dict:
    """Write `trials.csv`, `best_config.json` and `report.html` of a search whose trials are done.

    Args:
        folder: Folder of the search.
        plan: The search.
        trials: How many trials it had.

    Returns:
        See `tuning.results.write_tables`.

    Raises:
        InputError: No trial has finished.
    """
    from tuning.report import write_report

    results = read_results(folder)
    write_text(folder / FINISHED, json.dumps({"trials": trials}) + "\n")
    outcome = write_tables(folder, plan, results)
    write_report(folder, plan, results, outcome["winner"])
    return outcome
