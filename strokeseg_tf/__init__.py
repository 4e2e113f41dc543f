"""Segmentation of ischemic stroke in paired ADC and DWI studies. Not a medical device."""

__version__ = "0.1.0"
