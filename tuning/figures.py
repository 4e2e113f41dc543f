"""The figures of a search's report, as plain numbers."""

from collections.abc import Sequence

from strokeseg_tf.evaluation.panels import Level, Panel, Plot, Series
from tuning.importance import importance, place
from tuning.noise import Noise
from tuning.plan import Plan
from tuning.results import configuration, is_default, is_proposal, pareto_front, repeat_of

BLUE, ORANGE, GREY, GREEN = "#0072b2", "#d55e00", "#888888", "#009e73"


def trials_plot(plan: Plan, results: Sequence[dict], noise: Noise | None) -> Plot:
    """The objective of each trial, beside the default's mean and the expectation of luck."""
    levels = []
    if noise:
        sd = noise.sd or 0.0
        levels.append(Level(noise.mean, "default", noise.mean - sd, noise.mean + sd))
    if noise and noise.luck is not None:
        levels.append(Level(noise.luck, "best by luck"))
    series = [
        _points(name, [r for r in results if choose(r)], colour)
        for name, colour, choose in (
            ("trial", BLUE, lambda r: r["status"] == "complete" and is_proposal(r["trial"])),
            ("pruned", GREY, lambda r: r["status"] == "pruned"),
            ("repeat", ORANGE, lambda r: r["score"] is not None and _repeats_a_trial(r["trial"])),
        )
    ]
    ticks = {"x_title": "trial", "y_title": title_of(plan)}
    panel = Panel("Trials", series=[s for s in series if len(s.x)], levels=levels, **ticks)
    caption = (
        "The objective of each trial, and of the finalists' repeats under other seeds. Dashed: the "
        "mean of the default's repeats, its bar one standard deviation either way; and where the "
        "best of as many trials would lie by luck alone, were all as good as the default."
    )
    return Plot("trials", "Trials", caption, [panel])


def _repeats_a_trial(trial: str) -> bool:
    return not (is_proposal(trial) or is_default(trial))


def _points(name, results, colour) -> Series:
    numbers = [int(repeat_of(r["trial"])[0] or r["trial"]) for r in results]
    errors = [r["sd"] or 0.0 for r in results] if any(r["sd"] for r in results) else ()
    texts = [_words(r) for r in results]
    return Series("points", name, numbers, [r["score"] for r in results], colour, texts, errors)


def _words(result) -> str:
    values = ", ".join(f"{k} {_short(v)}" for k, v in configuration(result).items())
    return f"trial {result['trial']}: {values}"


def _short(value) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else str(value)


def title_of(plan: Plan) -> str:
    """The objective, for an axis."""
    return {"native": "validation Dice", "slices": "validation Dice of slices"}.get(
        plan.objective, f"validation Dice, {plan.objective.upper()}"
    )


def coordinates_plot(plan: Plan, results: Sequence[dict]) -> Plot:
    """Parallel coordinates: a line a trial, the best third coloured."""
    results = sorted(results, key=lambda r: r["score"])
    scores = [r["score"] for r in results]
    low, high = min(scores), max(scores)
    series = []
    for at, result in enumerate(results):
        values = [result["values"][name] for name in plan.space]
        domains = plan.space.values()
        heights = [place(domain, v) for domain, v in zip(domains, values, strict=True)]
        heights.append((result["score"] - low) / (high - low or 1))
        words = [f"trial {result['trial']}: {_short(v)}" for v in [*values, result["score"]]]
        best = at >= 2 * len(results) / 3
        name, colour = ("best third", ORANGE) if best else ("other trials", "#b8c4cc")
        series.append(Series("line", name, list(range(len(heights))), heights, colour, words))
    ticks = [f"{_title(name)}\n{_ends(domain)}" for name, domain in plan.space.items()]
    ticks.append(f"Dice\n{low:.2f} to {high:.2f}")
    panel = Panel("Values", "", "place in the range", series, ticks=ticks)
    caption = (
        "A line is a trial that was trained in full: its values, each between the ends of its "
        "range, and the validation Dice it reached."
    )
    return Plot("coordinates", "Parallel coordinates", caption, [panel])


def _ends(domain) -> str:
    low, *_, high = domain.extremes
    return f"{_short(low)} to {_short(high)}"


#: Names that would be broken where room is short.
_TITLES = {"background_weight": "weight elsewhere", "augmentation": "augment"}


def _title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " "))


def importance_plot(plan: Plan, results: Sequence[dict]) -> Plot | None:
    """Importance of each parameter, or None where the trials are too few."""
    found = importance(plan.space, results)
    if not found:
        return None
    pairs = sorted(found["parameters"].items(), key=lambda pair: -pair[1][0])
    means, errors = [mean for _, (mean, _) in pairs], [sd for _, (_, sd) in pairs]
    series = Series("points", "Importance", list(range(len(pairs))), means, BLUE, (), errors)
    names = [_title(name) for name, _ in pairs]
    panel = Panel("Importance", "", "loss of R2", [series], ticks=names)
    weight = "" if found["r2"] > 0 else ": it has learnt nothing, and the importance means nothing"
    caption = (
        "Permutation importance: how much of a random forest's R2 is lost when a parameter's "
        "values are shuffled among the trials (mean and standard deviation of 20 shuffles). On "
        f"trials that its trees have not seen the forest has an R2 of {found['r2']:.2f}{weight}."
    )
    return Plot("importance", "Importance", caption, [panel])


def curves_plot(plan: Plan, results: Sequence[dict], winner: dict) -> Plot:
    """The objective along the epochs of each trial."""
    series = []
    for result in results:
        name, colour = "trial", "#9fb6c6"
        if is_default(result["trial"]):
            name, colour = "default", "#333333"
        elif result["status"] == "pruned":
            name, colour = "pruned", "#dcc7b0"
        if result["trial"] == winner["trial"]:
            name, colour = "winner", ORANGE
        for training in result["trainings"]:
            epochs = list(range(1, len(training["curve"]) + 1))
            words = [f"trial {result['trial']}, {training['run']}"] * len(epochs)
            series.append(Series("line", name, epochs, training["curve"], colour, words))
    order = ["pruned", "trial", "default", "winner"]
    series.sort(key=lambda one: order.index(one.name))
    caption = "The objective after each epoch; pruned trials end early."
    panel = Panel("Learning curves", "epoch", title_of(plan), series)
    return Plot("curves", "Learning curves", caption, [panel])


def heads_plot(plan: Plan, results: Sequence[dict]) -> Plot | None:
    """ADC against DWI, and the trials that no other beats on both."""
    if len(plan.modalities) < 2:
        return None
    front = pareto_front(results)
    series = []
    for name, colour, chosen in (("trial", BLUE, False), ("not beaten on both", ORANGE, True)):
        part = [r for r in results if (r["trial"] in front) == chosen]
        x, y = ([r["dice"][m] for r in part] for m in ("adc", "dwi"))
        series.append(Series("points", name, x, y, colour, [_words(r) for r in part]))
    panel = Panel("Heads", "validation Dice, ADC", "validation Dice, DWI", series)
    caption = "The best epoch of each trial that was trained in full, on both heads."
    return Plot("heads", "ADC and DWI", caption, [panel])
