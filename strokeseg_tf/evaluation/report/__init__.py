"""The evaluation report: one HTML file that needs no network, no server and no other file."""


def write_report(out, **content):
    """Writes `report.html` into the folder `out`; see `page.write_report` for what it takes.

    A package imports nothing heavy, so the work is looked up when it is wanted.
    """
    from strokeseg_tf.evaluation.report import page

    return page.write_report(out, **content)
