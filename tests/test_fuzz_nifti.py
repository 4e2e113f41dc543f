"""Damaged NIfTI files: refused in one line, or read as the voxels that their bytes define."""

import datetime
import gzip
import io
import resource
import zlib

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfrecord_tools.errors import InputError
from tfrecord_tools.nifti import read_mask, read_volume, write_like

SHAPE = (6, 5, 4)
AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, 0.2, 0.05) @ np.diag([-0.9, 0.9, 6]), [50, -60, 20]
)
#: Sound files to damage: what scanners and programs write.
FORMS = [
    {"dtype": np.int16},
    {"dtype": np.float32},
    {"dtype": np.float64, "scale": None},
    {"dtype": np.uint8, "scale": (0.5, -3)},
    {"dtype": np.int16, "endianness": ">", "scale": (2, 0)},
    {"dtype": np.uint16, "shape": (*SHAPE, 1)},
    {"dtype": np.int16, "shape": (*SHAPE, 2)},
    {"dtype": np.int16, "kind": nib.Nifti2Image},
    {"dtype": np.int32, "extension": b"a comment of a program"},
    {"dtype": np.int16, "sform": 0},
]
FIELDS = [name for name in nib.Nifti1Header.template_dtype.names if name != "sizeof_hdr"]
EXTREMES = [0, 1, -1, 2, 7, 8, 127, 255, 352, 32767, -32768, 2**31 - 1, -(2**31)]
EXTREMES += [np.nan, np.inf, -np.inf, 1e-38, 1e38, -1e-9, 0.5]


def sound(dtype, shape=SHAPE, scale=None, endianness="<", kind=nib.Nifti1Image, **more):
    """The bytes of an undamaged file, and its kind."""
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(dtype)
    voxels = (np.random.default_rng(0).uniform(0, 200, shape)).astype(dtype)
    image = kind(voxels, AFFINE, header)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, more.get("sform", 1))
    if "extension" in more:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", more["extension"]))
    if scale:
        image.header.set_slope_inter(*scale)
    return kind, image.to_bytes()


SOUND = [sound(**form) for form in FORMS]

positions = st.floats(0, 1, exclude_max=True)
headers = st.floats(0, 1, exclude_max=True).map(lambda share: ("flip", share, "header"))
damages = st.one_of(
    st.tuples(st.just("field"), st.sampled_from(FIELDS), st.sampled_from(EXTREMES)),
    st.tuples(st.just("flip"), positions, st.sampled_from(["header", "all"])),
    st.tuples(st.just("byte"), positions, st.integers(0, 255)),
    st.tuples(st.just("cut"), positions, st.none()),
    st.tuples(st.just("erase"), positions, st.integers(1, 64)),
    st.tuples(st.just("insert"), positions, st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("append"), st.just(1.0), st.binary(min_size=1, max_size=400)),
)


def damage(content: bytes, kind, what) -> bytes:
    """The content with one thing wrong."""
    name, where, value = what
    changed = bytearray(content)
    header_size = kind.header_class.sizeof_hdr
    if name == "field":
        if len(content) < header_size or where not in kind.header_class.template_dtype.names:
            return content
        raw = kind.header_class(content[:header_size], check=False)
        field = raw.structarr[where]
        with np.errstate(all="ignore"):
            if field.dtype.kind in "iu":
                limits = np.iinfo(field.dtype)
                within = np.nan_to_num(value, posinf=2e38, neginf=-2e38)
                value = max(limits.min, min(limits.max, int(within)))
            raw.structarr[where] = str(value).encode() if field.dtype.kind == "S" else value
        return raw.binaryblock + content[header_size:]
    at = int(where * (min(len(content), 352) if value == "header" else len(content)))
    if name == "flip" and content:
        changed[at] ^= 1 << (at % 8)
    elif name == "byte" and content:
        changed[at] = value
    elif name == "cut":
        del changed[at:]
    elif name == "erase":
        changed[at : at + value] = bytes(len(changed[at : at + value]))
    elif name in ("insert", "append"):
        changed[at:at] = value
    return bytes(changed)


cases = st.fixed_dictionaries(
    {
        "form": st.sampled_from(range(len(FORMS))),
        "inside": st.lists(damages, min_size=1, max_size=3),
        # Damage to the compressed stream itself: rare, since its checksum finds all of it.
        "outside": st.one_of(st.none(), st.none(), st.none(), damages),
        "suffix": st.sampled_from([".nii", ".nii.gz"]),
    }
)


def defined_by(content: bytes, kind):
    """What the bytes define: the voxels by numpy from what their header says, and the affine.

    None where they define no volume of numbers.
    """
    header = kind.header_class.from_fileobj(io.BytesIO(content))
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    slope, intercept = header.get_slope_inter()
    voxels = np.frombuffer(content, dtype, int(np.prod(shape)), header.get_data_offset())
    values = voxels.astype(np.float64)
    if slope is not None:
        values = values * slope + intercept
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return values.reshape(shape, order="F"), header.get_best_affine()


def check(folder, case):
    """The law: a refusal in one line that names the file, or exactly what the bytes define."""
    kind, content = SOUND[case["form"]]
    for what in case["inside"]:
        content = damage(content, kind, what)
    stored = content
    if case["suffix"] == ".nii.gz":
        stored = gzip.compress(content, 1, mtime=0)
        if case["outside"] and case["outside"][0] != "field":
            stored = damage(stored, kind, case["outside"])
        try:
            content = gzip.decompress(stored)
        except (OSError, EOFError, zlib.error):
            content = None
    path = folder / f"x{case['suffix']}"
    path.write_bytes(stored)
    try:
        volume, grid = read_volume(path)
    except InputError as refusal:
        assert str(refusal).count(str(path)) >= 1 and "\n" not in str(refusal)
        with pytest.raises(InputError):
            read_mask(path)
        return False
    assert content is not None, "a damaged stream was read"
    kind = nib.Nifti2Image if content[:4] in (b"\x1c\2\0\0", b"\0\0\2\x1c") else nib.Nifti1Image
    with np.errstate(all="ignore"):
        values, affine = defined_by(content, kind)
        np.testing.assert_array_equal(volume, values.astype(np.float32))
    np.testing.assert_array_equal(grid.affine, affine)
    back = grid.to_volume(grid.to_slices(volume))
    np.testing.assert_array_equal(back, volume)
    write_like(folder / "mask.nii.gz", volume > 0, path)
    mask, own = read_mask(folder / "mask.nii.gz")
    np.testing.assert_array_equal(mask, volume > 0)
    np.testing.assert_array_equal(own.affine, affine)
    return True


def fuzz(folder, examples, *, derandomize):
    """Run the law on that many damaged files; how many were read, and how many refused."""
    outcomes = []

    @settings(
        max_examples=examples,
        # A hang is a file that takes longer than this.
        deadline=datetime.timedelta(seconds=5),
        derandomize=derandomize,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def law(case):
        outcomes.append(check(folder, case))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    law()
    # In KiB: nothing that a header declares is taken at its word.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10
    return outcomes.count(True), outcomes.count(False)


@pytest.mark.parametrize("form", range(len(FORMS)))
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_sound_files_pass_the_same_check(tmp_path, form, suffix):
    nothing = {"form": form, "inside": [], "outside": None, "suffix": suffix}
    assert check(tmp_path, nothing) == (FORMS[form].get("shape", SHAPE)[3:] != (2,))


def test_damaged_files_are_refused_or_read_as_they_are(tmp_path):
    read, refused = fuzz(tmp_path, 300, derandomize=True)
    assert read > 30 and refused > 30


@pytest.mark.slow
def test_2000_damaged_files_are_refused_or_read_as_they_are(tmp_path):
    read, refused = fuzz(tmp_path, 2000, derandomize=False)
    assert read + refused >= 2000 and read > 200 and refused > 200
