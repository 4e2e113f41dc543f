"""`strokeseg-tf convert`: studies -> shards."""

from strokeseg_tf.console import print_table, progress, remark

HELP = "convert studies to sharded TFRecord slice pairs"
EXAMPLES = """\
  strokeseg-tf convert isles22/ shards/
  strokeseg-tf convert studies.csv shards/ --split train=0.6,validation=0.2,test=0.2 --jobs 4
  strokeseg-tf convert cohort/ shards/ --split-file splits.csv --skip-bad
  strokeseg-tf convert cohort/ s3://bucket/shards
  strokeseg-tf convert cohort/ shards/ --folds 5 --split train=0.8,test=0.2
  strokeseg-tf convert cohort/ shards/ --beam runner=FlinkRunner flink_master=host:8081

A conversion that was stopped goes on where it was when the same command is run again.
"""


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument("source", metavar="SOURCE", help="folder of studies, or a CSV table")
    parser.add_argument(
        "out", metavar="OUT", help="shards folder to write, here or s3://, gs://, ..."
    )
    parser.add_argument(
        "--layout",
        default="auto",
        help="auto, isles22, soop, apis, foscal or bids (default: auto)",
    )
    parser.add_argument(
        "--split",
        metavar="SHARES",
        type=parse_shares,
        help="share of the patients by split (default: train=0.5,validation=0.13,test=0.37)",
    )
    parser.add_argument("--split-file", metavar="F", help="CSV with the columns study, split")
    parser.add_argument(
        "--folds",
        type=int,
        default=0,
        metavar="K",
        help="cross-validate the split train: views fold0-train, fold0-validation and so on",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the splits (default: 0)")
    parser.add_argument(
        "--shard-mb", type=float, default=64, metavar="M", help="MB a shard (default: 64)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes (default: 1)")
    parser.add_argument(
        "--beam",
        nargs="*",
        metavar="NAME=VALUE",
        help="run as Apache Beam pipelines with these options, on a disk that all workers share",
    )
    parser.add_argument(
        "--adc-unit",
        default="auto",
        metavar="U",
        help="unit of the ADC files: auto, 1e-3, mm2/s or 1e-6 (default: auto)",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave bad studies out")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def parse_shares(text):
    """`train=0.5,test=0.5` -> a dictionary."""
    import argparse

    try:
        shares = dict(part.split("=") for part in text.split(","))
        return {split.strip(): float(share) for split, share in shares.items()}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected shares like train=0.5,validation=0.13,test=0.37, received {text!r}"
        ) from None


def run(arguments):
    """Convert, and print what stands in each split."""
    from tfrecord_tools.beam_conversion import in_beam
    from tfrecord_tools.conversion import convert

    with progress("converting") as on_study:
        report = convert(
            arguments.source,
            arguments.out,
            layout=arguments.layout,
            shares=arguments.split,
            split_file=arguments.split_file,
            folds=arguments.folds or None,
            seed=arguments.seed,
            shard_mb=arguments.shard_mb,
            jobs=arguments.jobs,
            execute=None if arguments.beam is None else in_beam(arguments.out, arguments.beam),
            adc_unit=arguments.adc_unit,
            skip_bad=arguments.skip_bad,
            overwrite=arguments.overwrite,
            on_study=on_study,
            on_resume=lambda done: remark(f"{done} finished studies are taken up again"),
        )
    for text in report.remarks:
        remark(text)
    for study, reason in report.skipped.items():
        remark(f"left out {study}: {reason}")
    print_counts(report.info)
    print(arguments.out)


def print_counts(info):
    """A row a split or fold: studies, slice pairs, groups, raters' masks."""
    held_out = [view for view in info.views if view.endswith("-validation")]
    rows = []
    for split in [*info.splits, *held_out]:
        studies = [info.studies[study] for study in info.studies_of(split)]
        groups = [study["group"] for study in studies]
        rows.append(
            [
                split,
                len(studies),
                groups.count("stroke"),
                groups.count("control"),
                sum(study["slices"] for study in studies),
                " ".join(sorted({mask for study in studies for mask in study["masks"]})) or "none",
            ]
        )
    print_table(["split", "studies", "stroke", "control", "slice pairs", "masks"], rows)
