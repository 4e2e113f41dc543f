"""Layouts with a folder for each subject, `sub-*`: BIDS in general, SOOP, and ISLES'22."""

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tfrecord_tools.errors import InputError
from tfrecord_tools.image_files import first_image, image_named, images_matching, stem, those_found
from tfrecord_tools.study_files import MODALITIES, StudyFiles

#: Spaces of BIDS in which a mask lies on a study's own images.
OWN_SPACES = ("", "adc", "dwi", "trace", "orig", "native", "subject", "individual")


def find_isles22(source: Path) -> list[StudyFiles]:
    """ISLES 2022: one mask for both modalities, `rawdata/` and `dwi/` folders optional."""
    raw, home = _raw_and_home(source)
    studies = []
    for session in sorted(raw.glob("sub-*/ses-*")):
        subject = session.parent.name
        images = those_found(
            adc=_of_session(session, f"{subject}_{session.name}_adc", "*_adc.*"),
            dwi=_of_session(session, f"{subject}_{session.name}_dwi", "*_dwi.*"),
        )
        if not images:
            continue
        mask = first_image(home / "derivatives" / subject / session.name, "*_msk.*", "*/*_msk.*")
        masks = {("r1", modality): mask for modality in images} if mask else {}
        studies.append(StudyFiles(f"{subject}_{session.name}", images, masks, patient=subject))
    return studies


def _of_session(session: Path, name: str, pattern: str) -> Path | None:
    """An image in a session's folder or one below, by its full name if it can be.

    ISLES'22 has no reconstructions: those of BIDS may be ADC, whatever their suffix.
    """
    exact = f"{glob.escape(name)}.*"
    found = images_matching(session, exact, f"*/{exact}", pattern, f"*/{pattern}")
    return next((path for path in found if "_rec-" not in path.name), None)


def _raw_and_home(source: Path) -> tuple[Path, Path]:
    """The folder of the subjects, and the one that holds `derivatives/`."""
    if (source / "rawdata").is_dir():
        return source / "rawdata", source
    return source, source.parent if source.name == "rawdata" else source


def find_soop(source: Path) -> list[StudyFiles]:
    """SOOP (OpenNeuro ds004889): one mask, drawn on TRACE, for both modalities."""
    studies = []
    for folder in sorted(source.glob("sub-*/dwi")):
        subject = folder.parent.name
        images = those_found(
            adc=image_named(folder, f"{subject}_rec-ADC_dwi"),
            dwi=image_named(folder, f"{subject}_rec-TRACE_dwi"),
        )
        if not images:
            continue
        drawn = source / "derivatives" / "lesion_masks" / subject / "dwi"
        mask = image_named(drawn, f"{subject}_space-TRACE_desc-lesion_mask")
        masks = {("r1", modality): mask for modality in images} if mask else {}
        studies.append(StudyFiles(subject, images, masks))
    return studies


def find_bids(source: Path) -> list[StudyFiles]:
    """BIDS: ADC and DWI told apart by suffix or by the entities rec, acq and desc.

    A lesion mask is a derivative with "lesion" in its entities label or desc, drawn on the
    study's own images: one that names ADC or DWI as its space belongs to that image first. Masks
    of several pipelines are those of several raters, named after the pipelines.

    Raises:
        InputError: Studies have several images that could be meant.
    """
    raw, home = _raw_and_home(source)
    pipelines = sorted(p for p in home.glob("derivatives/[!.]*") if p.is_dir())
    found, unclear = [], []
    for folder in sorted([*raw.glob("sub-*/dwi"), *raw.glob("sub-*/ses-*/dwi")]):
        parts = folder.parent.relative_to(raw).parts
        images = {}
        for modality in MODALITIES:
            candidates = _images_of(modality, folder)
            if candidates:
                images[modality] = candidates[0]
            if len(candidates) > 1:
                unclear.append(candidates)
        if images:
            drawn = {p.name: list(_lesion_masks(p.joinpath(*parts))) for p in pipelines}
            found.append((parts, images, {name: paths for name, paths in drawn.items() if paths}))
    if unclear:
        raise InputError(
            f"{len(unclear)} of {len(found)} studies in {source} have several images of one "
            f"modality, such as {unclear[0][0]} and {unclear[0][1].name}; name the one that is "
            "meant in a CSV table"
        )
    raters = sorted({name for _, _, drawn in found for name in drawn})
    names = {raters[0]: "r1"} if len(raters) == 1 else {name: name.lower() for name in raters}
    return [
        StudyFiles(
            "_".join(parts),
            images,
            {
                (names[pipeline], modality): _mask_for(modality, paths)
                for pipeline, paths in drawn.items()
                for modality in images
            },
            patient=parts[0],
        )
        for parts, images, drawn in found
    ]


def _entities(path: Path) -> dict[str, str]:
    """`sub-1_rec-ADC_dwi.nii.gz` -> {"sub": "1", "rec": "adc", "suffix": "dwi"}, lower case."""
    *pairs, suffix = stem(path).lower().split("_")
    return dict(pair.partition("-")[::2] for pair in pairs) | {"suffix": suffix}


def _images_of(modality: str, folder: Path) -> list[Path]:
    """The images of a `dwi` folder that are as likely as any to be the modality's."""
    ranked: dict[int, list[Path]] = {}
    for path in images_matching(folder, "*"):
        rank = _rank(modality, _entities(path))
        if rank is not None:
            ranked.setdefault(rank, []).append(path)
    return ranked[min(ranked)] if ranked else []


def _rank(modality: str, entities: dict[str, str]) -> int | None:
    """How surely an image is one of the modality, 0 the surest; None where it is not.

    A plain `_dwi` is DWI where no trace is named; b = 0 and what is derived from tensors is not.
    """
    suffix = entities["suffix"]
    words = [entities.get(key, "") for key in ("rec", "acq", "desc")]
    if suffix not in ("adc", "dwi", "trace", "tracew"):
        return None
    is_adc = suffix == "adc" or any(re.search("(?<!e)adc", word) for word in words)
    if modality == "adc":
        return 0 if is_adc else None
    other = re.compile(r"eadc|exp|^(fa|colfa|md|tensor)$|b0+$|sbref")
    if is_adc or any(other.search(word) for word in words):
        return None
    traced = suffix.startswith("trace") or any(re.search("trace|b1000", word) for word in words)
    return 0 if traced else 1


def _lesion_masks(folder: Path) -> Iterator[Path]:
    for path in images_matching(folder, "*", "*/*"):
        entities = _entities(path)
        named = entities.get("label", "") + entities.get("desc", "")
        if (
            entities["suffix"] in ("mask", "roi", "dseg")
            and "lesion" in named
            and entities.get("space", "") in OWN_SPACES
        ):
            yield path


def _mask_for(modality: str, paths: Sequence[Path]) -> Path:
    """The mask drawn on the modality's image; else one that names no space; else the first."""
    spaces = {"adc": ("adc",), "dwi": ("trace", "dwi")}[modality]
    own = [path for path in paths if _entities(path).get("space") in spaces]
    return (own or [path for path in paths if "space" not in _entities(path)] or paths)[0]
