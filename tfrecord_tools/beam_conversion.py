"""The steps of a conversion as Apache Beam pipelines, for cohorts past one machine.

Every worker must see the studies and the output under the same paths, as on a cluster's shared
disk: what travels through Beam are names and facts, never voxels.
"""

import functools
import os
import pickle
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tfrecord_tools.atomic import UNFINISHED, work_folder
from tfrecord_tools.errors import InputError
from tfrecord_tools.storage import Remote, locate


def in_beam(
    out: str | Path, options: Sequence[str] = ()
) -> Callable[[Callable, Sequence], Iterator]:
    """What `tfrecord_tools.conversion.convert` takes as `execute`, to run its steps in Beam.

    Args:
        out: The shards folder that is written.
        options: Pipeline options, such as "runner=FlinkRunner" and "flink_master=host:8081".

    Raises:
        InputError: Apache Beam is not installed, an option cannot be one, or `out` is remote.
    """
    try:
        import apache_beam  # noqa: F401
    except ImportError as error:
        raise InputError(
            "apache-beam is not installed; install strokeseg-tf[beam], in an environment of its own"
        ) from error
    if isinstance(locate(out), Remote):
        raise InputError(
            f"a conversion in Beam writes to a disk that its workers share, not to {out}; copy "
            "the shards there afterwards"
        )
    wrong = [option for option in options if option.startswith("-") or not option.split("=")[0]]
    if wrong:
        raise InputError(f"a Beam option is written NAME=VALUE, without dashes, not {wrong[0]!r}")
    return functools.partial(
        _run_pipeline,
        results=work_folder(out) / UNFINISHED,
        flags=[f"--{option}" for option in options],
    )


def _run_pipeline(
    function: Callable, items: Sequence, *, results: Path, flags: Sequence[str]
) -> Iterator:
    """The results of a function in the order of the items."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    if not items:
        return iter(())
    names = [results / f"{uuid.uuid4().hex}.result" for _ in items]
    step = functools.partial(_carry_out, function=function)
    try:
        with beam.Pipeline(options=PipelineOptions(list(flags))) as pipeline:
            (
                pipeline
                | beam.Create([(str(n), item) for n, item in zip(names, items, strict=True)])
                | beam.Reshuffle()
                | beam.Map(step)
            )
    except Exception as error:  # Each runner has its own.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ChildProcessError(f"the Beam pipeline stopped: {reason}") from error
    return map(_take, names)


def _carry_out(named: tuple[str, object], function: Callable) -> None:
    """One step, anywhere; runners may repeat it, or run it twice at once."""
    name, item = named
    unfinished = f"{name}.{uuid.uuid4().hex}"
    result = pickle.dumps(function(item))
    with open(unfinished, "wb") as file:
        file.write(result)
    os.replace(unfinished, name)


def _take(name: Path):
    """A step's result, which the same software wrote a moment ago."""
    result = pickle.loads(name.read_bytes())
    name.unlink()
    return result
