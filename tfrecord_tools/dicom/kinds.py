"""What a DICOM image shows, by its header: ADC map, diffusion-weighted image, or something else.

Scanners disagree on where they say so; see `find_kind` and `find_b_value` for the places.
"""

import contextlib
import dataclasses
import re
from collections.abc import Sequence

from tfrecord_tools.diffusion import LOWEST_B

#: Words of a header that name an ADC map. "eADC" and the exponential image are none.
_ADC = re.compile(r"(?<![a-z])d?adc(?![a-z])|(?<!exponential )apparent.?diffusion")

#: Maps and images of a diffusion series that are neither ADC nor weighted images.
_OTHER_MAP = re.compile(
    r"(?<![a-z])(e(xp)?[-_ ]?adc|exponential|fa|colfa|ga|va|rd|tensor|phase|fractional)(?![a-z])"
)

#: Words of a header that name a diffusion-weighted series.
_WEIGHTED = re.compile(
    r"diff|(?<![a-z])(dwi?|dti|trace|tracew|isotropic|iso|resolve|tensor.b0|b[-_ =]?\d{2,4}t?)"
    r"(?![a-z])|dwi|tracew"
)

#: Words of a header that name the mean over directions.
_TRACE = re.compile(r"trace|isotrop|(?<![a-z])(iso|idwi)(?![a-z])")

#: Private elements that hold the b-value: creator of the block, group, element in the block.
_PRIVATE_B_VALUES = (
    ("SIEMENS MR HEADER", 0x0019, 0x0C),
    ("GEMS_PARM_01", 0x0043, 0x39),
    ("Philips Imaging DD 001", 0x2001, 0x03),
    ("Image Private Header", 0x0065, 0x09),
)

#: GE adds this to b-values to say that they are exact.
_GE_OFFSET = 1_000_000_000

#: GE's blocks of private elements, those of the direction of diffusion and that of the kind of an
#: image, which is this one for images at b = 0, whatever the b-value beside it.
_GE_DIRECTION, _GE_KIND = (
    ("GEMS_ACQU_01", 0x0019, (0xBB, 0xBC, 0xBD)),
    ("GEMS_PARM_01", 0x0043, 0x30),
)
_GE_T2 = 14

#: b-values, in s/mm2, above this are damaged headers.
_HIGHEST_B = 50_000


@dataclasses.dataclass(frozen=True)
class Frame:
    """One image of a file.

    Attributes:
        b_value: In s/mm2; None where unknown.
        isotropic: Whether it says to be a mean over directions.
        place: Where its slice lies, in mm; None where unknown, and in a classic file.
    """

    b_value: float | None
    isotropic: bool
    place: tuple[float, ...] | None = None


def find_kind(image_type: Sequence[str], description: str, b_values: Sequence[float]) -> str:
    """ "adc", "weighted" or "other".

    What the scanner writes as the type of the image counts first; people name the series.

    Args:
        image_type: ImageType, with the frames' own where there are any.
        description: Description of the series and name of its protocol.
        b_values: Those known of the whole series.
    """
    types, words = " ".join(image_type).lower(), description.lower()
    if re.search(r"tensor.b0", types):
        return "weighted"
    if _OTHER_MAP.search(types) or {"p", "phase map"} & set(types.split()):
        return "other"
    if _ADC.search(types):
        return "adc"
    # A series with several b-values, called "DWI + ADC", is not yet a map.
    if _ADC.search(words) and len(b_values) < 2 and not _TRACE.search(types):
        return "other" if _OTHER_MAP.search(words) else "adc"
    if _OTHER_MAP.search(re.sub("tensor.b0", "", words)) and not _TRACE.search(types):
        return "other"
    # Philips and GE write b = 0 into images that have nothing to do with diffusion.
    weighted = any(b >= LOWEST_B for b in b_values)
    return "weighted" if weighted or _WEIGHTED.search(f"{types} {words}") else "other"


def is_trace(image_type: Sequence[str], description: str) -> bool:
    """Whether the words of a header say that this is the mean over directions."""
    return bool(_TRACE.search(f"{' '.join(image_type)} {description}".lower()))


def find_b_value(header) -> float | None:
    """The b-value of a file's only image in s/mm2, None where the header does not say.

    Looked for in the standard's element, then in those of Siemens, GE, Philips and UIH, then in
    the comment that Toshiba and Canon wrote before the standard had one, then in the sequence's
    name (`*ep_b1000t` of Siemens).
    """
    if _number(_private(header, *_GE_KIND)) == _GE_T2:
        return 0.0
    found = _plausible(_number(header.get("DiffusionBValue")))
    if found is not None:
        return found
    for place in _PRIVATE_B_VALUES:
        found = _plausible(_number(_private(header, *place)))
        if found is not None:
            return found
    comment = re.search(r"\bb\s*=\s*(\d+)", str(header.get("ImageComments", "")))
    named = comment or re.search(r"(?<![a-z])b(\d+)(t|#|$)", str(header.get("SequenceName", "")))
    return _plausible(float(named[1])) if named else None


def find_frames(header) -> list[Frame]:
    """What a file says of its frames; of its only image where it is classic."""
    if "PerFrameFunctionalGroupsSequence" not in header:
        return [Frame(find_b_value(header), is_directionless(header))]
    shared = _diffusion_group(header.get("SharedFunctionalGroupsSequence"))
    frames = []
    for group in header.PerFrameFunctionalGroupsSequence or ():
        diffusion = _diffusion_group([group]) or shared or {}
        directionality = str(diffusion.get("DiffusionDirectionality", ""))
        b_value = _plausible(_number(diffusion.get("DiffusionBValue")))
        if b_value is None and directionality == "NONE":
            b_value = 0.0
        frames.append(Frame(b_value, directionality == "ISOTROPIC", _place(group)))
    return frames


def _place(group) -> tuple[float, ...] | None:
    for plane in group.get("PlanePositionSequence") or ():
        return tuple(round(float(x), 2) for x in plane.get("ImagePositionPatient") or ()) or None
    return None


def frame_types(header) -> list[str]:
    """The types of an enhanced file's frames, beyond ImageType."""
    found = []
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for frame in (header.get(groups) or ())[:1]:
            for types in frame.get("MRImageFrameTypeSequence") or ():
                found += words_of(types.get("FrameType"))
    return found


def words_of(value) -> list[str]:
    """The texts of an element that may have none, one or several."""
    if not value:
        return []
    return [str(value)] if isinstance(value, str) else [str(word) for word in value]


def is_directionless(header) -> bool:
    """Whether a classic file says of its image that it has no single direction."""
    if str(header.get("DiffusionDirectionality", "")) == "ISOTROPIC":
        return True
    direction = _private(header, "Philips Imaging DD 001", 0x2001, 0x04)
    if direction is not None:
        return _text(direction).strip().upper() == "I"
    creator, group, elements = _GE_DIRECTION
    return all(_number(_private(header, creator, group, element)) == 0 for element in elements)


def _private(header, creator: str, group: int, element: int):
    """The value of a private element; None where there is none."""
    with contextlib.suppress(KeyError):
        return header.private_block(group, creator)[element].value


def _diffusion_group(groups):
    for group in groups or ():
        for diffusion in group.get("MRDiffusionSequence") or ():
            return diffusion
    return None


def _number(value) -> float | None:
    """A number of an element, whose kind pydicom may not know: private ones can be bytes."""
    if isinstance(value, bytes) and len(value) in (4, 8) and not value.strip().isdigit():
        import struct

        return float(struct.unpack("<f" if len(value) == 4 else "<d", value)[0])
    if not isinstance(value, str | bytes | int | float) and isinstance(value, Sequence):
        value = value[0] if len(value) else None
    number = re.match(r"\s*(\d+(\.\d*)?)", _text(value))
    return float(number[1]) if number else None


def _text(value) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    return "" if value is None else str(value)


def _plausible(value: float | None) -> float | None:
    if value is None or not value >= 0:
        return None
    value = value - _GE_OFFSET if value >= _GE_OFFSET else value
    return value if value <= _HIGHEST_B else None
