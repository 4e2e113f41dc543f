"""Scores, rater agreement, Table 1, figures and the report of an evaluation."""
