"""A mask -> a DICOM Segmentation object that refers to the images it was drawn on.

A PACS or a viewer shows it over these images. By its nature it carries their patient and study.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from strokeseg_tf import __version__
from strokeseg_tf.prediction.study import Prediction
from tfrecord_tools.errors import InputError

#: DICOM's axes run to the left and the back, NIfTI's to the right and the front.
TO_RAS = np.diag([-1.0, -1, 1])

#: How far, in voxels, a pixel of the source may lie from the voxel it is taken for.
TOLERANCE = 0.05

#: Numbers of the series of segmentations, by modality: out of the way of what scanners use.
SERIES_NUMBERS = {"adc": 9101, "dwi": 9102}


def check_available() -> None:
    """Refuse to go on without highdicom.

    Raises:
        InputError: It is not installed.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise InputError(
            "--dicom-seg needs highdicom; install it with: pip install 'strokeseg-tf[dicom-seg]'"
        ) from error


def write_segmentations(
    predictions: Mapping[str, Prediction], series: Mapping[str, Sequence[Path]], folder, stem: str
) -> None:
    """Write `{stem}_{modality}_seg.dcm` for each modality, on the series it was predicted from.

    Args:
        predictions: By modality.
        series: The DICOM files of each modality.
        folder: Where to write.
        stem: Beginning of the files' names.

    Raises:
        InputError: The source's slices cannot be told apart, as in a mosaic, or do not lie where
            the mask's do.
    """
    for modality, prediction in predictions.items():
        segmentation = build_segmentation(prediction, series[modality], modality)
        segmentation.save_as(Path(folder) / f"{stem}_{modality}_seg.dcm")


def build_segmentation(prediction: Prediction, paths: Sequence[Path], modality: str):
    """A `highdicom.seg.Segmentation` of one segment, its frames at the positions of the source's.

    Args:
        prediction: Mask and grid.
        paths: The files of the source series.
        modality: "adc" or "dwi".

    Raises:
        InputError: See `write_segmentations`.
    """
    import highdicom
    import pydicom
    from pydicom.sr.codedict import codes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # They repeat values, which may name the patient.
        sources = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in paths]
        for image in sources:
            _share_geometry(image)
        planes = _planes(sources)
        masks = np.stack([_mask_on(plane, prediction) for plane in planes])
        first = planes[0]
        algorithm = highdicom.AlgorithmIdentificationSequence(
            "strokeseg-tf", codes.DCM.ArtificialIntelligence, __version__
        )
        description = highdicom.seg.SegmentDescription(
            segment_number=1,
            segment_label=f"Ischemic lesion on {modality.upper()}",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=highdicom.sr.CodedConcept("55641003", "SCT", "Infarct"),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            anatomic_regions=[codes.SCT.Brain],
        )
        return highdicom.seg.Segmentation(
            source_images=[plane.image for plane in planes] if first.single else [first.image],
            pixel_array=masks.astype(np.uint8),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[description],
            series_instance_uid=highdicom.UID(),
            series_number=SERIES_NUMBERS[modality],
            series_description=f"Ischemic lesion on {modality.upper()}, research only",
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="strokeseg-tf",
            manufacturer_model_name="strokeseg-tf",
            software_versions=__version__,
            device_serial_number="none",
            content_description="Research only. Not a medical device.",
            plane_positions=[plane.position_sequence() for plane in planes],
        )


class _Plane:
    """One slice of the source: where its pixels are."""

    def __init__(self, image, orientation, spacing, position, single: bool):
        self.image, self.single = image, single
        self.position = np.array(position, float)
        along_row, along_column = np.array(orientation, float).reshape(2, 3)
        between_rows, between_columns = map(float, spacing)
        # Columns: the step from row to row, and from column to column.
        self.steps = np.stack([along_column * between_rows, along_row * between_columns], axis=1)
        self.shape = int(image.Rows), int(image.Columns)

    @property
    def height(self) -> float:
        """Place along the normal, in mm."""
        down, right = self.steps.T
        normal = np.cross(right, down)
        return float(self.position @ normal / np.linalg.norm(normal))

    def position_sequence(self):
        """As highdicom wants it."""
        import highdicom

        return highdicom.PlanePositionSequence(
            highdicom.CoordinateSystemNames.PATIENT, tuple(self.position)
        )


def _planes(sources) -> list[_Plane]:
    """The slices of a series, one for each place, from one end to the other."""
    planes = {}
    for image in sources:
        for plane in _planes_of(image):
            planes.setdefault(round(plane.height, 2), plane)
    return [plane for _, plane in sorted(planes.items())]


def _planes_of(image):
    if "PerFrameFunctionalGroupsSequence" not in image:
        if "MOSAIC" in image.get("ImageType", ()) or "ImagePositionPatient" not in image:
            raise InputError(
                "a mosaic has no single slices that a segmentation could refer to; leave out "
                "--dicom-seg, or export the series as enhanced DICOM"
            )
        orientation, spacing = image.ImageOrientationPatient, image.PixelSpacing
        yield _Plane(image, orientation, spacing, image.ImagePositionPatient, single=True)
        return
    shared = image.SharedFunctionalGroupsSequence[0]
    for frame in image.PerFrameFunctionalGroupsSequence:
        orientation = _group(frame, shared, "PlaneOrientationSequence").ImageOrientationPatient
        spacing = _group(frame, shared, "PixelMeasuresSequence").PixelSpacing
        position = _group(frame, shared, "PlanePositionSequence").ImagePositionPatient
        yield _Plane(image, orientation, spacing, position, single=False)


def _share_geometry(image) -> None:
    """Say once for all frames how they lie, where the scanner repeats it in each of them.

    highdicom looks for it there. That frames agree is seen later, from their places.
    """
    if "PerFrameFunctionalGroupsSequence" not in image:
        return
    if not image.get("SharedFunctionalGroupsSequence"):
        image.SharedFunctionalGroupsSequence = [Dataset()]
    shared, frame = (
        image.SharedFunctionalGroupsSequence[0],
        image.PerFrameFunctionalGroupsSequence[0],
    )
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if name not in shared and name in frame:
            shared[name] = frame[name]


def _group(frame, shared, name):
    return (frame if name in frame else shared)[name].value[0]


def _mask_on(plane: _Plane, prediction: Prediction) -> np.ndarray:
    """The mask's values at the pixels of a slice, bool `(rows, columns)`.

    Pixels of the source are voxels of the mask in another order: each is looked up by its place.
    """
    pixels = np.indices(plane.shape).reshape(2, -1)
    places = TO_RAS @ (plane.position[:, None] + plane.steps @ pixels)
    to_voxels = np.linalg.inv(prediction.grid.affine)
    voxels = to_voxels[:3, :3] @ places + to_voxels[:3, 3:]
    nearest = np.rint(voxels).astype(int)
    limits = np.array(prediction.mask.shape[:3])[:, None]
    if (
        np.abs(voxels - nearest).max() > TOLERANCE
        or (nearest < 0).any()
        or (nearest >= limits).any()
    ):
        raise InputError("the slices of the DICOM series do not lie where those of its NIfTI do")
    return prediction.mask[tuple(nearest)].reshape(plane.shape)
