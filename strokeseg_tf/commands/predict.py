"""`strokeseg-tf predict`: masks on each image's own grid."""

import contextlib

from strokeseg_tf.console import print_table, progress
from strokeseg_tf.serving.connection import (
    DEADLINE_S,
    MAX_MESSAGE_MB,
    TOKEN_VARIABLE,
    Connection,
)
from strokeseg_tf.serving.endpoint import is_address
from tfrecord_tools.errors import InputError

HELP = "segment studies: a mask for each modality on its image's own grid"
EXAMPLES = """\
  strokeseg-tf predict runs/dual_v1 cohort/ -o predictions/
  strokeseg-tf predict runs/dual_v1 cohort/study-17 cohort/study-18 -o predictions/
  strokeseg-tf predict served/strokeseg --adc ADC.nii.gz --dwi DWI.nii.gz -o predictions/
  strokeseg-tf predict runs/dual_v1/model.keras studies.csv -o predictions/ --probabilities
  strokeseg-tf predict grpc://HOST:8500/strokeseg cohort/ -o predictions/
  strokeseg-tf predict https://HOST/v1/models/strokeseg/versions/3 cohort/ -o predictions/
"""


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="run folder, .keras file, SavedModel, or the address of a model that TensorFlow "
        "Serving serves: grpc://HOST:8500/NAME, http://HOST:8501/v1/models/NAME; grpcs and https "
        "for TLS; /versions/N at the end for a version; several servers as HOST:PORT,HOST:PORT",
    )
    parser.add_argument(
        "studies", metavar="STUDY", nargs="*", help="study folder, cohort folder or CSV table"
    )
    parser.add_argument("--adc", metavar="FILE", help="ADC image of one study")
    parser.add_argument("--dwi", metavar="FILE", help="DWI image of one study")
    parser.add_argument("-o", "--out", metavar="OUT", required=True, help="folder to write")
    parser.add_argument("--threshold", type=float, help="probability above which a voxel is lesion")
    parser.add_argument("--probabilities", action="store_true", help="write probabilities too")
    parser.add_argument(
        "--layout",
        default="auto",
        help="auto, isles22, soop, apis, foscal or bids (default: auto)",
    )
    parser.add_argument(
        "--parallel",
        type=int,
        metavar="N",
        help="studies at a time (default: 1, or 2 for each server)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    server = parser.add_argument_group(
        "a model on a server", f"A token for it comes by the environment variable {TOKEN_VARIABLE}."
    )
    server.add_argument(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help=f"time for one study, retries included (default: {DEADLINE_S:g})",
    )
    server.add_argument(
        "--max-message-mb",
        type=float,
        metavar="MB",
        help=f"larger studies are sent in parts (default: {MAX_MESSAGE_MB:g})",
    )
    server.add_argument("--ca-file", metavar="PEM", help="authority to trust, for grpcs and https")


def run(arguments):
    """Predict every study, and print volumes."""
    from tfrecord_tools.layouts import find_cases, pair_of_files

    if arguments.threshold is not None and not 0 < arguments.threshold < 1:
        raise InputError(f"--threshold must lie between 0 and 1, received {arguments.threshold}")
    if arguments.parallel is not None and arguments.parallel < 1:
        raise InputError(f"--parallel must be at least 1, received {arguments.parallel}")
    if arguments.adc or arguments.dwi:
        if arguments.studies:
            raise InputError("give either STUDY folders or --adc and --dwi, not both")
        files = [pair_of_files(arguments.adc, arguments.dwi)]
    elif arguments.studies:
        files = find_cases(arguments.studies, arguments.layout)
    else:
        raise InputError("no study to segment; name a STUDY folder, or --adc and --dwi files")

    from strokeseg_tf.cohort import predict_cohort, summarise_failures
    from strokeseg_tf.loading import load_predictor

    predictor = load_predictor(
        arguments.model, threshold=arguments.threshold, connection=connection_of(arguments)
    )
    with _ending(predictor), progress("segmenting") as on_study:
        result = predict_cohort(
            predictor,
            files,
            arguments.out,
            model=arguments.model,
            parallel=arguments.parallel or predictor.parallel,
            probabilities=arguments.probabilities,
            overwrite=arguments.overwrite,
            on_study=on_study,
        )
    print_result(result, arguments)
    if result["failed"]:
        raise InputError(
            f"{len(result['failed'])} of {len(files)} studies failed, the others are in "
            f"{arguments.out}: {summarise_failures(result['failed'])}"
        )


def _ending(predictor):
    """Ends the connections of a predictor that has some."""
    has_some = hasattr(predictor, "close")
    return contextlib.closing(predictor) if has_some else contextlib.nullcontext()


def connection_of(arguments):
    """`Connection` where the model has an address or an option for one is given, else None."""
    options = {
        "deadline_s": arguments.deadline,
        "max_message_mb": arguments.max_message_mb,
        "ca_file": arguments.ca_file,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if not given and not is_address(arguments.model):
        return None
    return Connection(**given)


def print_result(result, arguments):
    """A row a study and modality, or the JSON that `predictions.json` holds."""
    if arguments.json:
        from strokeseg_tf.console import print_json

        print_json(result)
        return
    rows = [
        [study, modality, facts["volume_ml"], facts["lesions"], entry["seconds"]]
        for study, entry in result["studies"].items()
        for modality, facts in entry["masks"].items()
    ]
    print_table(["study", "modality", "volume ml", "lesions", "seconds"], rows)
    print(arguments.out)
