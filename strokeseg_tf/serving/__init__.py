"""Export of a run as a SavedModel that takes raw studies."""
