"""`strokeseg-tf agreement`: how well raters agree."""

from strokeseg_tf.console import print_json, print_table, progress, remark

HELP = "kappa, Dice and volumes between raters and between ADC and DWI, as in the paper's Fig. 2"
EXAMPLES = """\
  strokeseg-tf agreement cohort/ -o agreement/
  strokeseg-tf agreement shards/ --split test -o agreement/
  strokeseg-tf agreement studies.csv -o agreement/ --consensus staple --json
"""

#: Studies named in a remark.
NAMED = 3


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument(
        "source", metavar="SOURCE", help="folder of studies, CSV table, or a shards folder"
    )
    parser.add_argument("-o", "--out", metavar="OUT", required=True, help="folder to write")
    parser.add_argument(
        "--layout", default="auto", metavar="L", help="layout of SOURCE (default: auto)"
    )
    parser.add_argument("--split", metavar="S", help="only this split (default: all studies)")
    parser.add_argument(
        "--consensus",
        choices=("majority", "staple"),
        help="compare each rater with the consensus of all raters too",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave bad studies out")
    parser.add_argument("--json", action="store_true", help="print agreement.json")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run(arguments):
    """Compare, and print the table of Fig. 2."""
    from strokeseg_tf.evaluation.agreement_report import write_agreement

    with progress("comparing") as on_study:
        result = write_agreement(
            arguments.source,
            arguments.out,
            layout=arguments.layout,
            split=arguments.split,
            consensus=arguments.consensus,
            skip_bad=arguments.skip_bad,
            overwrite=arguments.overwrite,
            on_study=on_study,
        )
    for text in remarks_of(result):
        remark(text)
    if arguments.json:
        print_json(result)
        return
    print_agreement(result["agreement_summary"])
    print(f"{arguments.out}/agreement.md")


def remarks_of(result):
    """What a person should know beside the table."""
    by_reason = {}
    for study, reason in result["left_out"].items():
        by_reason.setdefault(reason, []).append(study)
    for reason, studies in by_reason.items():
        named = ", ".join(studies[:NAMED]) + (", ..." if len(studies) > NAMED else "")
        noun = "study" if len(studies) == 1 else "studies"
        yield f"left out {len(studies)} {noun} ({reason}): {named}"
    for rater in result["one_mask_for_both"]:
        yield f"the masks of {rater} on ADC and DWI are the same in every study: not compared"


def print_agreement(summary):
    """Means over stroke studies, then how many of them fall in each band."""
    undefined = float("nan")
    rows = [
        [entry["title"], entry["studies"]]
        + [
            undefined if value is None else value
            for value in (
                *(entry["kappa"][name] for name in ("mean", "sd", "median")),
                *(entry["dice"]["mean"], entry["icc"]["value"]),
                entry["volume_bland_altman"]["bias"],
            )
        ]
        for entry in summary
    ]
    titles = ["studies", "kappa", "sd", "median", "dice", "ICC ml", "bias ml"]
    print_table(["stroke studies", *titles], rows)
    print()
    rows = [[entry["title"], *entry["bands"].values()] for entry in summary]
    print_table(["studies by kappa", *summary[0]["bands"]], rows)
