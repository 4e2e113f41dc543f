"""DICOM of any scanner -> ADC and DWI as NIfTI."""
