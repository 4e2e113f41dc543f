"""Tables of the statistics and of agreement, with numbers written as people write them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from strokeseg_tf.evaluation.report import markup
from strokeseg_tf.evaluation.report.sections import column_title
from strokeseg_tf.evaluation.table import rater_title

Record = Mapping[str, Any]

_DASH = "–"


def p_value(p: float | None) -> str:
    """ "0.032", or "< 0.001" and "> 0.999" where three decimals would say 0 or 1."""
    if p is None:
        return _DASH
    if p < 0.001:
        return "< 0.001"
    return "> 0.999" if p > 0.999 else f"{p:.3f}"


def number(value: float | None, decimals: int = 2, signed: bool = False) -> str:
    """A number with a true minus sign; never a negative zero; a dash for None."""
    if value is None:
        return _DASH
    text = f"{value:{'+' if signed else ''}.{decimals}f}"
    if not float(text):
        text = text.lstrip("+-")
    return text.replace("-", "−")


def interval(low: float | None, high: float | None, decimals: int = 2) -> str:
    """ "[0.10, 0.32]"."""
    if low is None or high is None:
        return ""
    return f"[{number(low, decimals)}, {number(high, decimals)}]"


def moments(record: Record | None) -> str:
    """ "0.56 ± 0.28" of a record with `mean` and `sd`."""
    if not record or record.get("mean") is None:
        return _DASH
    mean, sd = record["mean"], record.get("sd")
    return number(mean) if sd is None else f"{number(mean)} ± {number(sd)}"


def pair_title(pair: Sequence[str] | None) -> str:
    """ "R1 and R2", "ADC and DWI"."""
    return " and ".join(rater_title(name) for name in pair or ())


def agreement_table(summary: Record) -> str:
    """Agreement of raters and of modalities, one line a comparison; or nothing."""
    records = summary.get("agreement_summary") or []
    if not records:
        return ""
    bands = list(dict.fromkeys(band for record in records for band in record["bands"]))
    titles = ["Comparison", "Studies", "Kappa", "Median", "Dice", *bands]
    titles += ["Volume ICC [95 % CI]", "Volume bias (ml) [limits of agreement]"]
    body = []
    for record in records:
        icc, bland = record.get("icc") or {}, record.get("volume_bland_altman") or {}
        cells = [record["title"], str(record["studies"]), moments(record.get("kappa"))]
        cells += [number((record.get("kappa") or {}).get("median")), moments(record.get("dice"))]
        cells += [str(record["bands"].get(band, 0)) for band in bands]
        cells += [_with_interval(icc.get("value"), icc.get("lower"), icc.get("upper"))]
        cells += [_with_interval(bland.get("bias"), bland.get("lower"), bland.get("upper"), 1)]
        body.append(markup.cells(cells))
    names = {(record.get("icc") or {}).get("name") for record in records} - {None}
    said = (
        "Voxel-wise Cohen's kappa and Dice per study, mean ± standard deviation over stroke "
        "studies; two empty masks agree (1). The columns from poor to almost perfect count "
        "studies per band of Landis and Koch (1977). Limits of agreement "
        "after Bland and Altman: bias ± 1.96 sd."
    )
    said += f" ICC is {', '.join(sorted(names))}." if names else ""
    return markup.table("Agreement", titles, body) + markup.note(said)


def statistics_section(summary: Record) -> str:
    """Tests between runs and against the raters, and bootstrap intervals."""
    statistics = summary.get("statistics") or {}
    parts = [
        _tests("Between runs", statistics.get("between_runs"), _between),
        _tests("Runs against the agreement of raters", statistics.get("against_raters"), _against),
        _intervals(statistics.get("intervals") or []),
    ]
    inner = "".join(part for part in parts if part)
    if not inner:
        return ""
    methods = statistics.get("methods") or []
    if methods:
        methods = f'<div class="note">{markup.bullets(methods)}</div>'
    return markup.section("Statistics", inner + (methods or ""))


def sizes_table(summary: Record) -> str:
    """Scores by the size of the lesion, a line per run, modality and rater; or nothing."""
    records = (summary.get("statistics") or {}).get("sizes") or []
    if not records:
        return ""
    bins = list(dict.fromkeys(record["bin"] for record in records))
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for record in records:
        lines.setdefault(tuple(_who(record)), {})[record["bin"]] = _size(record)
    body = [
        markup.cells([*who, *(line.get(name, _DASH) for name in bins)])
        for who, line in lines.items()
    ]
    titles = ["Run", "Modality", "Rater", *bins]
    said = (
        "Dice, mean ± standard deviation, by the volume that the rater drew; n: studies; missed: "
    )
    said += "studies of them in which no voxel of the lesion was marked."
    return markup.table("Lesion size", titles, body) + markup.note(said)


def _size(record: Record) -> str:
    if not record["studies"]:
        return _DASH
    missed = f", {record['missed']} missed" if record.get("missed") else ""
    return f"{moments(record.get('dice'))} (n {record['studies']}{missed})"


def _who(record: Record) -> list[str]:
    return [record["run"], record["modality"].upper(), rater_title(record["rater"])]


def _between(record: Record) -> list[str]:
    return [record["first"], record["second"]]


def _against(record: Record) -> list[str]:
    return [record["run"], f"{pair_title(record.get('pair'))} (Dice)"]


def _tests(title: str, records: Iterable[Record] | None, names: Any) -> str:
    body = []
    for record in records or ():
        t, wilcoxon = record.get("t") or {}, record.get("wilcoxon") or {}
        low, high = record.get("ci") or (None, None)
        difference = number(record.get("mean_difference"), 3, signed=True)
        cells = [record["modality"].upper(), rater_title(record["rater"])]
        cells += [str(record.get("metric", "dice")).replace("_", " "), *names(record)]
        cells += [str(record["n"]), f"{difference} {interval(low, high, 3)}".strip()]
        cells += [number(record.get("effect_size"), 2, signed=True)]
        statistic = number(t.get("statistic"))
        freedom = "" if t.get("df") is None else f" ({t['df']:g})"
        cells += [f"{statistic}{freedom}", p_value(t.get("p")), p_value(t.get("p_holm"))]
        cells += [number(wilcoxon.get("statistic"), 1), p_value(wilcoxon.get("p"))]
        body.append(markup.cells([*cells, p_value(wilcoxon.get("p_holm"))]))
    if not body:
        return ""
    titles = ["Modality", "Rater", "Metric", "First", "Second", "n"]
    titles += ["Mean difference [95 % CI]", "d_z", "t (df)", "p", "p (Holm)"]
    titles += ["Wilcoxon W", "p", "p (Holm)"]
    return f"<h3>{title}</h3>" + markup.table(title, titles, body)


def _intervals(records: Sequence[Record]) -> str:
    if not records:
        return ""
    metrics = list(dict.fromkeys(record["metric"] for record in records))
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for record in records:
        numbers = record["mean"], record["lower"], record["upper"]
        lines.setdefault(tuple(_who(record)), {})[record["metric"]] = _with_interval(*numbers)
    body = [
        markup.cells([*who, *(line.get(metric, _DASH) for metric in metrics)])
        for who, line in lines.items()
    ]
    titles = ["Run", "Modality", "Rater", *(column_title(metric) for metric in metrics)]
    name = "Means of stroke studies with 95 % confidence intervals"
    return f"<h3>{name}</h3>" + markup.table(name, titles, body)


def _with_interval(
    value: float | None, low: float | None, high: float | None, decimals: int = 2
) -> str:
    return f"{number(value, decimals)} {interval(low, high, decimals)}".strip()
