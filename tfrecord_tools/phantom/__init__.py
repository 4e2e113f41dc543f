"""Synthetic cohorts: heads, lesions, and raters who disagree."""
