"""What stands in the folder of a search when it has ended, or has been interrupted."""

from pathlib import Path

from tuning.plan import Plan
from tuning.results import read_results, write_tables


def conclude(folder: Path, plan: Plan) -> dict:
    """Write `trials.csv`, `best_config.json` and `report.html` from the results that are there.

    Returns:
        See `tuning.results.write_tables`.

    Raises:
        InputError: No trial has finished.
    """
    from tuning.report import write_report

    results = read_results(folder)
    outcome = write_tables(folder, plan, results)
    write_report(folder, plan, results, outcome["winner"])
    return outcome
