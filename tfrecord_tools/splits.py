"""Seeded, stratified splits: by patient, never by slice."""

import csv
import dataclasses
import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tfrecord_tools.errors import InputError

#: The paper's shares: 40 training, 11 validation and 31 test studies of 82 (section 2.3).
DEFAULT_SHARES = {"train": 0.5, "validation": 0.13, "test": 0.37}

#: Patients are shuffled among this many neighbours of their group in the order of lesion volume.
STRATUM_SIZE = 8


@dataclasses.dataclass(frozen=True)
class SplitItem:
    """What a split looks at: who, of which group, with how much lesion (ml)."""

    study: str
    patient: str
    group: str
    lesion_ml: float


def split_studies(
    items: Iterable[SplitItem], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Assign every study to a split.

    Patients are ordered by group and lesion volume, shuffled within small strata of each group,
    and dealt out so that each split takes its share of every part of the order. All studies of a
    patient go together. Every split gets at least one patient where there are enough.

    Args:
        items: The studies.
        shares: Share of the patients by split name, summing to 1.
        seed: Same seed, same splits, whatever the order of `items`.

    Returns:
        Split by study id.
    """
    check_shares(shares)
    patients: dict[str, list[SplitItem]] = {}
    for item in sorted(items, key=lambda i: i.study):
        patients.setdefault(item.patient, []).append(item)
    order = sorted(patients, key=lambda p: (_stratum(patients[p]), p))
    random_state = random.Random(seed)
    shuffled = []
    for _, group in itertools.groupby(order, lambda p: patients[p][0].group):
        group = list(group)
        for start in range(0, len(group), STRATUM_SIZE):
            stratum = group[start : start + STRATUM_SIZE]
            random_state.shuffle(stratum)
            shuffled += stratum
    dealt = _deal(len(shuffled), _counts(len(shuffled), shares))
    return {
        item.study: split
        for patient, split in zip(shuffled, dealt, strict=True)
        for item in patients[patient]
    }


def split_folds(items: Sequence[SplitItem], folds: int, seed: int) -> dict[str, int]:
    """Deal studies into folds of equal size, as `split_studies` deals them into splits.

    Args:
        items: The studies to validate on in turn.
        folds: How many folds, 2 at least.
        seed: Same seed, same folds, whatever the order of `items`.

    Returns:
        By study id the fold, from 0, that holds it for validation; it trains in all others.

    Raises:
        InputError: There are fewer patients than folds.
    """
    patients = len({item.patient for item in items})
    if not 2 <= folds <= patients:
        raise InputError(
            f"{folds} folds cannot be made of {patients} patients; choose --folds from 2 to "
            "their number"
        )
    dealt = split_studies(items, {str(fold): 1 / folds for fold in range(folds)}, seed)
    return {study: int(fold) for study, fold in dealt.items()}


def _stratum(items: Sequence[SplitItem]) -> tuple[str, float]:
    return items[0].group, sum(item.lesion_ml for item in items)


def check_shares(shares: Mapping[str, float]) -> None:
    """Refuse shares that are none.

    Raises:
        InputError: One is not above 0, or they do not sum to 1.
    """
    if not shares or any(not 0 < share <= 1 for share in shares.values()):
        raise InputError(f"split shares must be above 0 and at most 1, received {dict(shares)}")
    if not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise InputError(
            f"split shares must sum to 1, received {dict(shares)} summing to "
            f"{sum(shares.values()):g}"
        )


def _counts(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers nearest the shares (largest remainder), at least 1 where possible."""
    counts = {split: math.floor(share * total) for split, share in shares.items()}
    remainder = sorted(shares, key=lambda s: counts[s] - shares[s] * total)
    for split in remainder[: total - sum(counts.values())]:
        counts[split] += 1
    for split in counts:
        if counts[split] == 0 and total >= len(counts):
            counts[max(counts, key=counts.get)] -= 1
            counts[split] = 1
    return counts


def _deal(total: int, counts: Mapping[str, int]) -> list[str]:
    """A sequence in which each split is spread evenly: always the one furthest behind."""
    given = dict.fromkeys(counts, 0)
    sequence = []
    for position in range(total):
        behind = max(
            (s for s in counts if given[s] < counts[s]),
            key=lambda s: counts[s] * (position + 1) / total - given[s],
        )
        given[behind] += 1
        sequence.append(behind)
    return sequence


def read_split_file(path: str | Path, items: Sequence[SplitItem]) -> dict[str, str]:
    """Read a CSV with the columns `study, split`; every study must be named.

    Raises:
        InputError: The file is no such table, a study has no split or two, or a patient would
            stand in two splits.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a UTF-8 CSV table ({error})") from error
    if not rows or not {"study", "split"} <= set(rows[0]):
        raise InputError(f"{path} needs the columns study, split and a row a study")
    assigned: dict[str, str] = {}
    for row in rows:
        study, split = ((row[column] or "").strip() for column in ("study", "split"))
        if split and assigned.setdefault(study, split) != split:
            raise InputError(
                f"{path} puts study {study} into {assigned[study]} and {split}; keep one row"
            )
    missing = sorted({item.study for item in items} - set(assigned))
    if missing:
        raise InputError(f"{path} names no split for {', '.join(missing[:5])}; add the rows")
    assigned = {item.study: assigned[item.study] for item in items}
    check_no_leak(assigned, {item.study: item.patient for item in items}, str(path))
    return assigned


def check_no_leak(splits: Mapping[str, str], patients: Mapping[str, str], where: str) -> None:
    """Refuse splits in which a patient stands twice.

    Raises:
        InputError: It names the patient and both splits.
    """
    seen: dict[str, str] = {}
    for study, split in splits.items():
        patient = patients[study]
        if seen.setdefault(patient, split) != split:
            raise InputError(
                f"patient {patient} stands in the splits {seen[patient]} and {split} in {where}; "
                "keep all studies of a patient in one split"
            )
