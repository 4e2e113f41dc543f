"""`strokeseg-tf lint`: what is wrong or remarkable about studies."""

from strokeseg_tf.console import print_json, progress

HELP = "check studies before they are converted"
EXAMPLES = """\
  strokeseg-tf lint isles22/
  strokeseg-tf lint studies.csv --jobs 4
  strokeseg-tf lint cohort/ --adc-unit 1e-6 --json
"""

#: Width of the text, and how many studies a note names.
WIDTH, NAMED = 80, 3


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument("source", metavar="SOURCE", help="folder of studies, or a CSV table")
    parser.add_argument(
        "--layout", default="auto", metavar="L", help="layout of SOURCE (default: auto)"
    )
    parser.add_argument(
        "--adc-unit",
        default="auto",
        metavar="U",
        help="unit of the ADC files: auto, 1e-3, mm2/s or 1e-6 (default: auto)",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="J", help="processes that read (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(arguments):
    """Print the findings; errors among them are told by the exit status."""
    import dataclasses

    from tfrecord_tools.errors import InputError
    from tfrecord_tools.lint.cohort import lint

    with progress("checking") as on_study:
        report = lint(
            arguments.source,
            layout=arguments.layout,
            adc_unit=arguments.adc_unit,
            jobs=arguments.jobs,
            on_study=on_study,
        )
    if arguments.json:
        print_json(
            {
                "source": arguments.source,
                "counts": report.counts,
                "studies": report.studies,
                "refused": report.refused,
                "findings": [dataclasses.asdict(finding) for finding in report.findings],
            }
        )
    else:
        _print_lines(lines_of(report, arguments.source))
    if report.refused:
        raise InputError(
            f"{len(report.refused)} of {_count(len(report.studies), 'study')} cannot be converted: "
            f"{_named(report.refused)}; mend what the report says of them, or leave them out with "
            "convert --skip-bad"
        )


def _print_lines(lines):
    """Lines on standard output, in colour where that is a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        text = Text(line)
        text.highlight_regex(r"^  error\b", "bold red")
        text.highlight_regex(r"^  warning\b", "yellow")
        text.highlight_regex(r"^    -> .*", "green")
        console.print(text)


def lines_of(report, source):
    """The report as text: errors and warnings by study, notes by code, then the counts."""
    serious = [finding for finding in report.findings if finding.severity != "note"]
    for study in _worst_first(serious):
        yield study
        for finding in serious:
            if finding.study == study:
                yield from _paragraph(finding, source)
        yield ""
    notes = [finding for finding in report.findings if finding.severity == "note"]
    for code in dict.fromkeys(finding.code for finding in notes):
        yield from _note([finding for finding in notes if finding.code == code], source)
        yield ""
    counts = ", ".join(_count(n, severity) for severity, n in report.counts.items())
    yield f"{_count(len(report.studies), 'study')}: {counts}"


def _worst_first(findings):
    """The studies, those with an error before those without."""
    bad = [finding.study for finding in findings if finding.severity == "error"]
    return dict.fromkeys([*bad, *(finding.study for finding in findings)])


def _paragraph(finding, source):
    yield from _wrapped(f"{finding.severity} {finding.code}: {_sentence(finding, source)}", 2)
    yield from _wrapped(f"-> {finding.remedy}", 4)


def _note(findings, source):
    """One paragraph for a note that may hold for hundreds of studies."""
    first = findings[0]
    studies = list(dict.fromkeys(finding.study for finding in findings))
    heading = f"note {first.code}, {_count(len(studies), 'study')}: {_named(studies)}"
    yield from _wrapped(heading, 0)
    such_as = "such as " if len(findings) > 1 else ""
    yield from _wrapped(such_as + _sentence(first, source), 2)
    yield from _wrapped(f"-> {first.remedy}", 4)


def _sentence(finding, source):
    """File and message; files inside the source are named from there."""
    from pathlib import Path

    home = Path(source) if Path(source).is_dir() else Path(source).parent
    inside = finding.file and Path(finding.file).is_relative_to(home)
    file = Path(finding.file).relative_to(home) if inside else finding.file
    return f"{file} {finding.message}".strip()


def _named(studies):
    """The first few ids, and how many more there are."""
    more = f" and {len(studies) - NAMED} more" if len(studies) > NAMED else ""
    return ", ".join(studies[:NAMED]) + more


def _wrapped(text, indent):
    """Lines of at most `WIDTH`; a path is never broken."""
    import textwrap

    return textwrap.wrap(
        text.encode(errors="backslashreplace").decode(),  # Names of files may be no text.
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _count(number, noun):
    plural = {"study": "studies"}.get(noun, f"{noun}s")
    return f"{number} {noun if number == 1 else plural}"
