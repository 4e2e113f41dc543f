"""What a search has found: `result.json` of each trial, `trials.csv`, `best_config.json`."""

import csv
import io
import json
import statistics
from pathlib import Path

from strokeseg_tf.config import Config
from tfrecord_tools.atomic import write_text
from tfrecord_tools.errors import InputError
from tuning.plan import Plan
from tuning.search_space import SEARCH_SPACE, apply_values

#: In the folder of each trial, written when it has ended.
RESULT = "result.json"
TRIALS = "trials.csv"
BEST_CONFIG = "best_config.json"
#: Beside it, for `fit` to note where the configuration comes from.
BEST_TRIAL = "best_trial.json"
#: `default-0`, `default-1`, ... are the default under one seed after another; `7-1`, `7-2`, ... are
#: trial 7 under the seeds after its own.
DEFAULT = "default"


def trial_folder(search: str | Path, trial: str) -> Path:
    """Folder of a trial."""
    return Path(search) / f"trial_{trial}"


def repeat_of(trial: str) -> tuple[str | None, int]:
    """What a trial repeats, the default or a trial, and under which seed after the first.

    Returns:
        `("7", 2)` for `7-2`, `("default", 0)` for `default-0`, `(None, 0)` for a proposal.
    """
    name, _, number = trial.rpartition("-")
    return (name, int(number)) if name else (None, 0)


def is_default(trial: str) -> bool:
    """Whether a trial is a repeat of the default."""
    return repeat_of(trial)[0] == DEFAULT


def is_proposal(trial: str) -> bool:
    """Whether a trial is one that the tuner has proposed, not a repeat."""
    return repeat_of(trial)[0] is None


def read_result(search: str | Path, trial: str) -> dict | None:
    """The result of a trial that has ended, or None."""
    path = trial_folder(search, trial) / RESULT
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; remove it to run that trial anew") from error


def write_result(search: str | Path, result: dict) -> None:
    """Write the result of a trial."""
    write_text(trial_folder(search, result["trial"]) / RESULT, json.dumps(result, indent=1) + "\n")


def read_results(search: str | Path) -> list[dict]:
    """Results of all trials that have ended: the default's repeats, then by number of the trial."""
    names = [path.parent.name.removeprefix("trial_") for path in Path(search).glob(f"*/{RESULT}")]
    return [read_result(search, name) for name in sorted(names, key=_order)]


def _order(trial: str):
    name, number = repeat_of(trial)
    if name == DEFAULT:
        return -1, number
    return int(name or trial), number


def complete(results: list[dict]) -> list[dict]:
    """Proposals that were trained to their end, best first; of equal ones the longest trained."""
    done = [r for r in results if r["status"] == "complete" and is_proposal(r["trial"])]
    return sorted(done, key=lambda r: (-r["score"], -r["epochs"]))


def comparable(results: list[dict]) -> list[dict]:
    """Complete proposals of Hyperband's longest round, of other tuners all of them; best first."""
    done = complete(results)
    longest = max((r["values"].get("tuner/epochs", 0) for r in done), default=0)
    return [r for r in done if r["values"].get("tuner/epochs", 0) == longest]


def configuration(result: dict) -> dict:
    """What was searched, by name, without what Hyperband notes beside it."""
    return {k: v for k, v in result["values"].items() if not k.startswith("tuner/")}


def distinct(results: list[dict]) -> list[dict]:
    """The first result of each configuration: what Hyperband promotes has its predecessors' one."""
    first = {}
    for result in results:
        first.setdefault(json.dumps(configuration(result), sort_keys=True), result)
    return list(first.values())


def told_score(result: dict, others: list[dict]) -> float:
    """What the tuner is told of a trial that has not failed.

    Of a pruned one only the first training was begun, on a fold or seed that may be an easy one: it
    is taken to be as far from the mean of its trainings as that of the complete trials is.
    """
    if result["status"] != "pruned":
        return result["score"]
    shifts = [r["score"] - r["trainings"][0]["score"] for r in complete(others)]
    return result["score"] + (statistics.mean(shifts) if shifts else 0.0)


def default_scores(results: list[dict], again=False) -> list[float]:
    """The objective of the default's repeats.

    Args:
        results: All results.
        again: Those under the seeds that finalists are repeated under, if any of them has ended.
    """
    scores = {r["trial"]: r["score"] for r in results if is_default(r["trial"])}
    ended = {name: score for name, score in scores.items() if score is not None}
    later = [score for name, score in ended.items() if repeat_of(name)[1]]
    return later if again and later else list(ended.values())


def repeated_score(plan: Plan, results: list[dict], trial: str) -> float | None:
    """Mean of a trial's repeats; None unless all have ended well.

    Its own score is left out: it was picked for being high, and so for its luck as well.
    """
    names = {f"{trial}-{number}" for number in range(1, plan.repeats)}
    ended = [r for r in results if r["trial"] in names and r["status"] == "complete"]
    if not names or len(ended) < len(names):
        return None
    return statistics.mean(r["score"] for r in ended)


def finalists(plan: Plan, results: list[dict]) -> list[dict]:
    """Trials whose repeats have all ended well, best first; `score` is the mean of these."""
    means = [(r, repeated_score(plan, results, r["trial"])) for r in complete(results)]
    final = [r | {"score": mean} for r, mean in means if mean is not None]
    return sorted(final, key=lambda r: -r["score"])


def ranked(plan: Plan, results: list[dict]) -> list[dict]:
    """Finalists or, where there is none yet, complete trials; best first.

    Those that have failed under another seed are left out.
    """
    failed = {repeat_of(r["trial"])[0] for r in results if r["status"] == "failed"}
    once = [r for r in complete(results) if r["trial"] not in failed]
    return finalists(plan, results) or once


def best_trial(search: str | Path, plan: Plan, results: list[dict]) -> dict:
    """The winner: the best finalist, or the default where its mean is above all of them.

    The mean is that under the same seeds. Without finalists trials are compared by their one score.

    Returns:
        A result whose `score` is what it has won by.

    Raises:
        InputError: Nothing was trained to its end.
    """
    best = ranked(plan, results)
    scores = default_scores(results, again=bool(finalists(plan, results)))
    if scores and (not best or statistics.mean(scores) > best[0]["score"]):
        default = next(r for r in results if is_default(r["trial"]) and r["score"] is not None)
        return default | {"score": statistics.mean(scores)}
    if best:
        return best[0]
    reasons = [f"trial {r['trial']}: {r['reason']}" for r in results if r["reason"]]
    raise InputError(
        f"no trial of {search} has finished ({'; '.join(reasons[:2]) or 'none was begun'})"
    )


def winning_config(plan: Plan, winner: dict, base: Config | None = None) -> Config:
    """The configuration of the winner, or what it found put into another base."""
    if is_default(winner["trial"]):
        return base or plan.default
    if base is None:  # It has the fixed values; a factor applied twice would be its square.
        return apply_values(plan.base, winner["values"])
    return apply_values(base, winner["values"] | plan.fixed)


def pareto_front(results: list[dict]) -> set[str]:
    """Of `comparable` trials those that no other beats on one head without losing on another."""
    heads = {r["trial"]: tuple(r["dice"].values()) for r in comparable(results)}
    return {
        trial
        for trial, own in heads.items()
        if not any(
            other != own and all(a >= b for a, b in zip(other, own, strict=True))
            for other in heads.values()
        )
    }


def rows_of(plan: Plan, results: list[dict]) -> list[dict]:
    """The rows of `trials.csv`: finalists, other trials, then what was pruned or failed."""
    front = pareto_front(results)
    names = [name for name in SEARCH_SPACE if name in plan.space]
    repeated = {r["trial"]: r["score"] for r in finalists(plan, results)}
    ranks = {"complete": 0, "pruned": 1, "failed": 2}

    def place(r):
        return ranks[r["status"]], -repeated.get(r["trial"], -1), -(r["score"] or 0)

    return [
        {"trial": r["trial"], "status": r["status"], plan.score_name: r["score"]}
        | {"sd": r["sd"], "repeated": repeated.get(r["trial"])}
        | {f"{m}_dice": r["dice"].get(m) for m in plan.modalities}
        | {"pareto": r["trial"] in front}
        | {name: r["values"].get(name) for name in names}
        | {"epochs": r["epochs"], "seconds": round(r["seconds"], 1), "reason": r["reason"]}
        for r in sorted(results, key=place)
    ]


def origin(search: str | Path, plan: Plan, winner: dict) -> dict:
    """What `environment.json` and the model card say of the search behind a run."""
    return {
        "name": Path(search).resolve().name,
        "trial": winner["trial"],
        "tuner": plan.tuner,
        "objective": plan.objective,
        "score": winner["score"],
        "values": configuration(winner),
    }


def write_trials(search: str | Path, plan: Plan, results: list[dict]) -> list[dict]:
    """Write `trials.csv`; its rows."""
    rows = rows_of(plan, results)
    if rows:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(Path(search) / TRIALS, text.getvalue())
    return rows


def write_tables(search: str | Path, plan: Plan, results: list[dict]) -> dict:
    """Write `trials.csv`, `best_config.json` and `best_trial.json`.

    Returns:
        `{"trials": rows of the table, "winner": result, "best": configuration}`.

    Raises:
        InputError: No trial has finished; `trials.csv` is there all the same.
    """
    rows = write_trials(search, plan, results)
    winner = best_trial(search, plan, results)
    best = winning_config(plan, winner)
    contents = {BEST_CONFIG: best.to_dict(), BEST_TRIAL: origin(search, plan, winner)}
    for name, content in contents.items():
        write_text(Path(search) / name, json.dumps(content, indent=2) + "\n")
    return {"trials": rows, "winner": winner, "best": best}
