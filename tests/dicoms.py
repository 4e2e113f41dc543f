"""DICOM files for the tests, written with pydicom."""

import numpy as np
import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

SHAPE = (6, 32, 32)

#: What no output may hold, by the element it is planted in.
PLANTED = {
    "PatientName": "Zwetschgenbaum^Adalbert",
    "PatientID": "MRN-7764201",
    "PatientBirthDate": "19430217",
    "InstitutionName": "Klinikum Quastenhausen",
    "InstitutionAddress": "Pfauengasse 17",
    "InstitutionalDepartmentName": "Neuroradiologie Ost",
    "AccessionNumber": "ACC99817263",
    "ReferringPhysicianName": "Hollerbusch^Kunigunde",
    "PerformingPhysicianName": "Ypsilanti^Dr",
    "OperatorsName": "Krautwurst",
    "StationName": "STATIONXQ7",
    "DeviceSerialNumber": "SN5529103",
    "StudyID": "STUDYID8841",
    "StudyDescription": "Schlaganfall Zwetschgenbaum",
    "ImageComments": "Zwetschgenbaum am Telefon",
    "StudyDate": "20190823",
    "SeriesDate": "20190823",
    "AcquisitionDate": "20190823",
    "ContentDate": "20190823",
    "AcquisitionTime": "131719.25",
    "PatientComments": "Blutgruppe Zwetschge",
    "AdditionalPatientHistory": "Zwetschgenallergie",
}


def images(seed=0):
    """(b0, function of b giving the weighted image, ADC in 1e-6 mm2/s), uint16 `SHAPE`."""
    rng = np.random.default_rng(seed)
    adc = rng.uniform(600, 1100, SHAPE)
    inside = np.zeros(SHAPE, bool)
    inside[:, 6:-6, 6:-6] = True
    b0 = np.where(inside, rng.uniform(4000, 6000, SHAPE), 0)

    def at(b):
        return np.rint(b0 * np.exp(-b * adc * 1e-6)).astype(np.uint16)

    return at(0), at, np.where(inside, np.rint(adc), 0).astype(np.uint16)


def write_series(folder, volume, *, number=1, study="1.2.3", b=None, name="{:03d}.dcm", **elements):
    """Write a classic series, a file a slice, and return the paths.

    Elements that are callables are called with the dataset; others are set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series = elements.pop("SeriesInstanceUID", generate_uid())
    paths = []
    for index, pixels in enumerate(volume):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "MR", "SIEMENS", "Skyra"
        ds.SoftwareVersions = "syngo MR E11"
        ds.PatientID, ds.PatientName = "id", "name"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
        ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = number, index + 1, 1
        ds.ImageType = ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"]
        ds.SeriesDescription = ds.ProtocolName = "ep2d_diff"
        ds.ScanningSequence, ds.SequenceVariant, ds.MRAcquisitionType = "EP", "SK", "2D"
        ds.EchoTime, ds.RepetitionTime, ds.MagneticFieldStrength = 80, 5000, 3
        ds.SliceThickness = ds.SpacingBetweenSlices = 5
        ds.PixelSpacing = [2, 2]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [-32, -32, 5 * index]
        ds.Rows, ds.Columns = pixels.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, 0
        ds.PixelData = pixels.astype("<u2").tobytes()
        if b is not None:
            ds.DiffusionBValue = float(b)
        for key, value in elements.items():
            if callable(value):
                value(ds)
            else:
                setattr(ds, key, value)
        path = folder / name.format(index + 1)
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_enhanced(path, volumes, *, by_slice=False, **elements):
    """Write an enhanced file.

    Args:
        path: Where to.
        volumes: (voxels, b-value or None, DiffusionDirectionality) of each.
        by_slice: Whether all frames of a slice stand together, instead of those of a volume.
        elements: To be set besides.
    """
    places = [(volume, index) for volume in volumes for index in range(len(volume[0]))]
    if by_slice:
        places.sort(key=lambda place: place[1])
    (first, *_) = write_series(path.parent, volumes[0][0][:1])
    ds = pydicom.dcmread(first)
    first.unlink()
    enhanced = "1.2.840.10008.5.1.4.1.1.4.1"
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = enhanced
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(ds, name)
    for name, value in elements.items():
        setattr(ds, name, value)
    ds.NumberOfFrames = len(places)
    ds.PixelData = np.stack([voxels[i] for (voxels, *_), i in places]).astype("<u2").tobytes()
    measures = {"PixelSpacing": [2, 2], "SliceThickness": 5, "SpacingBetweenSlices": 5}
    ds.SharedFunctionalGroupsSequence = [
        _groups(
            PixelMeasuresSequence=measures,
            PlaneOrientationSequence={"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
            MREchoSequence={"EffectiveEchoTime": 80.0},
            MRImageFrameTypeSequence={"FrameType": list(ds.ImageType)},
        )
    ]
    ds.PerFrameFunctionalGroupsSequence = [
        _groups(
            FrameContentSequence={"DimensionIndexValues": [1, index + 1]},
            PlanePositionSequence={"ImagePositionPatient": [-32, -32, 5 * index]},
            MRDiffusionSequence={
                "DiffusionDirectionality": directionality,
                "DiffusionBValue": None if b is None else float(b),
            },
        )
        for (_, b, directionality), index in places
    ]
    ds.save_as(path, enforce_file_format=True)


def _groups(**sequences):
    groups = Dataset()
    for name, elements in sequences.items():
        item = Dataset()
        for key, value in elements.items():
            setattr(item, key, value)
        setattr(groups, name, [item])
    return groups


def write_study(folder, *, seed=0, with_adc=True, **elements):
    """A study of Siemens: b0, trace at b = 1000 and, where wanted, a vendor's ADC map."""
    b0, at, adc = images(seed)
    write_series(folder / "s1", b0, number=1, b=0, **elements)
    write_series(folder / "s2", at(1000), number=2, b=1000, **elements)
    if with_adc:
        types = ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]
        write_series(folder / "s3", adc, number=3, **{"ImageType": types} | elements)


def private(ds, group, creator, element, vr, value):
    """Set a private element of a block, named as vendors name them."""
    block = ds.private_block(group, creator, create=True)
    ds[block.get_tag(element)] = DataElement(block.get_tag(element), vr, value)


def say_as_ge(ds, b):
    """b-value, direction and kind of an image as GE writes them."""
    ds.Manufacturer, ds.ImageType = "GE MEDICAL SYSTEMS", ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.SeriesDescription = ds.ProtocolName = "Ax DWI ASSET"
    private(ds, 0x0043, "GEMS_PARM_01", 0x39, "IS", [str(b + 10**9), "8", "0", "0"])
    private(ds, 0x0043, "GEMS_PARM_01", 0x30, "SS", 15 if b else 14)
    for element in (0xBB, 0xBC, 0xBD):
        private(ds, 0x0019, "GEMS_ACQU_01", element, "DS", "0")


def say_as_philips(ds, b):
    """The same as Philips does, with voxels that are scaled twice."""
    ds.Manufacturer, ds.ImageType = "Philips", ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"]
    ds.SeriesDescription = ds.ProtocolName = "DWI_SSh SENSE"
    private(ds, 0x2001, "Philips Imaging DD 001", 0x03, "FL", float(b))
    if b:
        private(ds, 0x2001, "Philips Imaging DD 001", 0x04, "CS", "I")
    scale_as_philips(ds, 2.5, 0.25)


def scale_as_philips(ds, slope, precise):
    """The console shows voxels times `slope`; the precise ones are the voxels over `precise`."""
    ds.RescaleSlope, ds.RescaleIntercept = slope, 0
    private(ds, 0x2005, "Philips MR Imaging DD 001", 0x0E, "FL", precise)


def say_as_uih(ds, b):
    """The same as United Imaging does."""
    ds.Manufacturer, ds.ImageType = "UIH", ["ORIGINAL", "PRIMARY", "M", "DWI"]
    if b:
        ds.ImageType = ["DERIVED", "PRIMARY", "DIFFUSION", "TRACE"]
    ds.SeriesDescription = ds.ProtocolName = "epi_dwi_tra"
    private(ds, 0x0065, "Image Private Header", 0x09, "FD", float(b))


def edit(path, **elements):
    """Set elements of a file in place, and return what it held before and holds now."""
    ds = pydicom.dcmread(path)
    for key, value in elements.items():
        setattr(ds, key, value)
    ds.save_as(path)
    return ds
