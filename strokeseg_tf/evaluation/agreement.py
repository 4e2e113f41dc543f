"""How well two lesion masks of one study agree beyond chance, and what such a number is called.

Compared are every two raters on each modality, and the two modalities by each rater: the four
comparisons of the paper's Fig. 2, more where there are more raters. All masks of a study lie on
one grid, that of its DWI where it has one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from math import isnan, prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from strokeseg_tf.evaluation.consensus import CONSENSUS
from strokeseg_tf.evaluation.reliability import bland_altman, icc_absolute_agreement
from strokeseg_tf.evaluation.scores import as_mask
from strokeseg_tf.evaluation.table import CONTROL, rater_title

AgreementRow = dict[str, Any]

# Upper edges, included: Landis and Koch (1977) print 0.00-0.20, 0.21-0.40 and so on.
LANDIS_KOCH_BANDS: tuple[tuple[float, str], ...] = (
    (0.2, "slight"),
    (0.4, "fair"),
    (0.6, "moderate"),
    (0.8, "substantial"),
    (1.0, "almost perfect"),
)
BANDS = ("poor", *(band for _, band in LANDIS_KOCH_BANDS))
COMPARISON = ("kind", "modality", "rater", "pair")

AGREEMENT_NOTE = (
    "Kappa: voxel-wise Cohen's kappa over the whole volume of a study, on its DWI grid where "
    "it has one; two empty masks agree (kappa and Dice 1), one empty mask scores Dice 0. Bands "
    "after Landis and Koch (1977). Means, bands, ICC and Bland-Altman are over stroke studies; "
    "controls stand apart. Volumes in ml, differences first minus second; ICC(2,1): absolute "
    "agreement of a single rater (Shrout and Fleiss 1979) with its 95 % interval (McGraw and Wong "
    "1996); limits of agreement: bias ± 1.96 standard deviations (Bland and Altman 1999)."
)


def cohen_kappa(a: ArrayLike, b: ArrayLike) -> float:
    """Voxel-wise Cohen's kappa of two masks over the whole volume.

    kappa = (p_o - p_e) / (1 - p_e), with p_o the share of voxels on which both say the same and
    p_e = p_a p_b + (1 - p_a)(1 - p_b) the share expected by chance from the lesion shares p.
    Two masks that are both empty, or both full, agree completely: 1, as in the paper's code.

    Args:
        a: 3-D mask, bool or exactly 0 and 1.
        b: mask of the same shape.

    Returns:
        Kappa in [-1, 1].

    Raises:
        ValueError: the masks differ in shape, are not 3-D, or hold anything but 0 and 1.
    """
    a, b = _as_pair(as_mask(a, "a"), as_mask(b, "b"))
    return _kappa(a.size, _count(a), _count(b), _count(a & b))


def _as_pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape. Received {a.shape} and {b.shape}.")
    return a, b


def _count(mask: np.ndarray) -> int:
    return int(np.count_nonzero(mask))


def _kappa(n: int, n_a: int, n_b: int, n_both: int) -> float:
    # Whole numbers keep 1 - p_e exact where the lesion is a few voxels in millions.
    same = n - n_a - n_b + 2 * n_both
    chance = n_a * n_b + (n - n_a) * (n - n_b)
    return 1.0 if chance == n * n else (same * n - chance) / (n * n - chance)


def landis_koch_band(kappa: float) -> str:
    """Names a kappa after Landis and Koch: "poor" below 0, "slight" up to 0.2, "fair" up to 0.4,
    "moderate" up to 0.6, "substantial" up to 0.8, then "almost perfect".

    Raises:
        ValueError: kappa is NaN or not in [-1, 1].
    """
    if isnan(kappa) or not -1 <= kappa <= 1:
        raise ValueError(f"kappa must lie in [-1, 1]. Received {kappa}.")
    if kappa < 0:
        return "poor"
    return next(name for edge, name in LANDIS_KOCH_BANDS if kappa <= edge)


def study_agreement(
    study: str,
    group: str,
    references: Mapping[tuple[str, str], ArrayLike],
    spacing_mm: Sequence[float],
) -> list[AgreementRow]:
    """Agreement of every two masks of a study that differ in the rater or the modality alone.

    Args:
        study: study id.
        group: "stroke", "control" or "unknown".
        references: 3-D masks by (rater, modality), one shape.
        spacing_mm: voxel size in mm along the axes of the masks.

    Returns:
        Rows with `study`, `group`, `kind` ("raters" or "modalities"), `modality` (of two raters,
        else None), `rater` (of two modalities, else None), `pair` (two names), `kappa`, `band`,
        `dice` (1 where both masks are empty), `first_volume_ml` and `second_volume_ml`.

    Raises:
        ValueError: masks not 3-D, not of one shape, or with anything but 0 and 1.
    """
    masks = {key: as_mask(mask, " ".join(key)) for key, mask in references.items()}
    counts = {key: _count(mask) for key, mask in masks.items()}
    voxel_ml = prod(spacing_mm) / 1000
    rows = []
    for labels, one, other in _comparisons(masks):
        first, second = _as_pair(masks[one], masks[other])
        n_first, n_second, n_both = counts[one], counts[other], _count(first & second)
        kappa, total = _kappa(first.size, n_first, n_second, n_both), n_first + n_second
        measured = {
            "kappa": kappa,
            "band": landis_koch_band(kappa),
            "dice": 2 * n_both / total if total else 1.0,
            "first_volume_ml": n_first * voxel_ml,
            "second_volume_ml": n_second * voxel_ml,
        }
        rows.append({"study": study, "group": group, **labels, **measured})
    return rows


def _comparisons(keys: Iterable[tuple[str, str]]) -> Iterator[tuple[dict[str, Any], tuple, tuple]]:
    """What to compare among (rater, modality) keys: labels of the comparison, and its two keys."""
    keys = sorted(keys, key=lambda key: (key[1], _rank(key[0])))
    for one, other in combinations(keys, 2):
        if one[1] == other[1]:
            labels = {"kind": "raters", "modality": one[1], "rater": None}
            yield {**labels, "pair": [one[0], other[0]]}, one, other
    for one, other in combinations(keys, 2):
        if one[0] == other[0]:
            labels = {"kind": "modalities", "modality": None, "rater": one[0]}
            yield {**labels, "pair": [one[1], other[1]]}, one, other


def _rank(name: str) -> tuple[bool, str]:
    """Raters by name, then their consensus."""
    return name in CONSENSUS, name


def without_shared_masks(
    rows: Iterable[AgreementRow],
) -> tuple[list[AgreementRow], list[str]]:
    """Drops the comparison between modalities of raters who drew one mask for both.

    Such a mask (as in ISLES'22 and SOOP) agrees with itself, which says nothing. A rater is taken
    to have drawn once where the two masks are the same in every study and not always empty.

    Returns:
        The other rows, and the raters.
    """
    rows = list(rows)
    own: dict[str, list[AgreementRow]] = {}
    for row in rows:
        if row["kind"] == "modalities":
            own.setdefault(row["rater"], []).append(row)
    shared = [
        rater
        for rater, pool in own.items()
        if all(row["dice"] == 1 for row in pool) and any(row["first_volume_ml"] for row in pool)
    ]
    return [row for row in rows if row["rater"] not in shared], shared


def summarise_agreement(rows: Iterable[AgreementRow]) -> list[dict[str, Any]]:
    """The agreement over the studies of each comparison, ready for JSON.

    Args:
        rows: of `study_agreement`, of any number of studies.

    Returns:
        One entry per comparison, raters before modalities: `kind`, `modality`, `rater`, `pair`,
        `title`; over stroke studies (every group but "control") `studies`, `both_empty` (studies
        of them in which nobody drew), `kappa` and `dice` (mean, sd, median), `bands` (studies by
        band, in order), `icc` and `volume_bland_altman` of the volumes in ml (see
        `reliability`); `controls` (`studies`, `marked`: the controls in which one of the two
        drew); and `all`: studies, kappa, dice and bands with the controls pooled, as in the paper.
        Undefined numbers are None.
    """
    pools: dict[tuple, list[AgreementRow]] = {}
    for row in rows:
        pools.setdefault(comparison_of(row), []).append(row)
    # In Fig. 2's order: the raters on each modality, then the modalities by each rater.
    ordered = sorted(pools, key=_order)
    return [_summary_of(pools[key]) for key in ordered]


def _order(comparison: tuple) -> tuple:
    kind, modality, rater, pair = comparison
    names = [name for name in (modality, rater, *pair) if name]
    return kind != "raters", *map(_rank, names)


def comparison_of(row: Mapping[str, Any]) -> tuple:
    """What a row, or an entry of the summary, compares; hashable."""
    return row["kind"], row["modality"], row["rater"], tuple(row["pair"])


def _summary_of(pool: list[AgreementRow]) -> dict[str, Any]:
    stroke = [row for row in pool if row["group"] != CONTROL]
    controls = [row for row in pool if row["group"] == CONTROL]
    volumes = np.array([_volumes(row) for row in stroke]).reshape(-1, 2)
    return {
        **{name: pool[0][name] for name in COMPARISON},
        "title": comparison_title(pool[0]),
        **_distribution(stroke),
        "both_empty": sum(not any(_volumes(row)) for row in stroke),
        "icc": icc_absolute_agreement(volumes),
        "volume_bland_altman": bland_altman(*volumes.T),
        "controls": {
            "studies": len(controls),
            "marked": [row["study"] for row in controls if any(_volumes(row))],
        },
        "all": _distribution(pool),
    }


def _volumes(row: AgreementRow) -> tuple[float, float]:
    return row["first_volume_ml"], row["second_volume_ml"]


def _distribution(pool: list[AgreementRow]) -> dict[str, Any]:
    return {
        "studies": len(pool),
        "kappa": _moments([row["kappa"] for row in pool]),
        "dice": _moments([row["dice"] for row in pool]),
        "bands": {band: sum(row["band"] == band for row in pool) for band in BANDS},
    }


def _moments(values: list[float]) -> dict[str, float | None]:
    return {
        "mean": float(np.mean(values)) if values else None,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "median": float(np.median(values)) if values else None,
    }


def comparison_title(row: Mapping[str, Any]) -> str:
    """ "R1 and R2 on ADC", "ADC and DWI by R1"."""
    if row["kind"] == "raters":
        return f"{' and '.join(map(rater_title, row['pair']))} on {row['modality'].upper()}"
    return f"{' and '.join(m.upper() for m in row['pair'])} by {rater_title(row['rater'])}"
