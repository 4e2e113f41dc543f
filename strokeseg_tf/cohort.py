"""Predict many studies and write what belongs on disk, each study as soon as it is ready."""

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from strokeseg_tf.prediction.alarms import find_alarms
from strokeseg_tf.prediction.results import RESULT, Account, Wanted, read_finished, write_images
from strokeseg_tf.prediction.study import check_repeated, predict_study
from tfrecord_tools.errors import InputError
from tfrecord_tools.growing_folder import GrowingFolder, growing_folder
from tfrecord_tools.names import file_name
from tfrecord_tools.study import read_study
from tfrecord_tools.study_files import StudyFiles

__all__ = ["RESULT", "predict_cohort", "summarise_failures"]

#: While some studies are computed, one is read and one is written.
AROUND = 2


def predict_cohort(
    predictor,
    files,
    out,
    *,
    model,
    overwrite=False,
    resume=False,
    parallel=1,
    settings=None,
    failed=None,
    tell=str,
    write_more: Callable | None = None,
    on_study=None,
    **wanted,
):
    """Predict studies and write masks, what else is wanted, and `predictions.json`.

    A study that cannot be read or predicted does not stop the others. The files of a study appear
    together as soon as it is finished, `predictions.json` then names it: whatever stops the
    prediction, what was finished stays.

    Args:
        predictor: See `strokeseg_tf.loading.load_predictor`.
        files: `tfrecord_tools.layouts.StudyFiles` of the studies; their masks are not read.
        out: Folder to write; it appears with the first study.
        model: Name of the model, for `predictions.json`.
        overwrite: Replace `out` if it exists.
        resume: Go on with an `out` that exists: what is finished there is left as it is.
        parallel: How many studies are predicted at a time; others are read and written meanwhile.
        settings: More that decides the results, by name, for `predictions.json`.
        failed: Why studies could not even be read, by id.
        tell: Turns the reason of a failure into what is told to others.
        write_more: Called with (files of the study, its predictions, folder), to write more files.
        on_study: Called with (studies done, studies in all).
        **wanted: Fields of `strokeseg_tf.prediction.results.Wanted`.

    Returns:
        What `predictions.json` holds: model, its version, threshold, studies, and failed studies
        with reasons; all in the order of `files`.

    Raises:
        InputError: `out` exists, was predicted otherwise, or every study failed (then nothing is
            written).
    """
    wanted, out = Wanted(**wanted), Path(out)
    if wanted.uncertainty:
        check_repeated(predictor)
    heading = {
        "model": str(model),
        "version": predictor.version,
        "computed_by": predictor.computed_by,
        "threshold": predictor.threshold,
        **({"thresholds": predictor.thresholds} if hasattr(predictor, "thresholds") else {}),
        **(settings or {}),
        "min_lesion_ml": wanted.min_lesion_ml,
    }
    if (out / RESULT).is_file() and not overwrite and not resume:
        raise InputError(
            f"{out} exists; go on with it by --resume, replace it by --overwrite, or choose "
            "another name"
        )
    finished = read_finished(out, heading) if resume else {}
    account = Account(heading, [f.study for f in files], finished)
    account.failed |= failed or {}
    todo = [f for f in files if f.study not in finished]
    with growing_folder(out, overwrite, marker=RESULT, resume=resume) as folder:
        work = _Work(predictor, folder, account, wanted, parallel, write_more)
        skipped = len(files) - len(todo)
        work.run(todo, tell, lambda done: on_study and on_study(skipped + done, len(files)))
        if not account.studies:
            raise InputError(summarise_failures(account.failed))
        folder.close(account.text(finished=True))
    return account.content(finished=True)


def summarise_failures(failed: Mapping[str, str]) -> str:
    """Studies and why they failed, in one line; those with one reason together."""
    studies = {}
    for study, why in failed.items():
        studies.setdefault(why, []).append(study)
    return "; ".join(f"{_names(names)}: {why}" for why, names in studies.items())


def _names(names) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


class _Work:
    """Reads, predicts and writes studies in threads: at each time some of each."""

    def __init__(
        self, predictor, folder: GrowingFolder, account: Account, wanted, parallel, write_more
    ):
        self._predictor, self._folder, self._account = predictor, folder, account
        self._wanted, self._write_more = wanted, write_more
        self._threads = parallel + AROUND
        self._computing = threading.Semaphore(parallel)
        self._writing = _Writing()
        self._adding = threading.Lock()

    def run(self, files, tell, on_study) -> None:
        """Go through the studies; results and failures stand in the account.

        The main thread only waits, so that Ctrl-C is heard at once; the others are then left to
        themselves, but write no more.
        """
        executor = ThreadPoolExecutor(self._threads, thread_name_prefix="study")
        try:
            futures = {executor.submit(self._one, study): study.study for study in files}
            for done, future in enumerate(as_completed(futures), 1):
                try:
                    future.result()
                except InputError as error:
                    self._account.failed[futures[future]] = tell(str(error))
                on_study(done)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            self._writing.close()
            raise
        executor.shutdown()

    def _one(self, files: StudyFiles) -> None:
        clock = _Clock()
        # Nobody's masks, and no unit: the normalisation over the volume needs neither.
        study = read_study(files.without_masks(), adc_unit="1e-3")
        clock.stop()
        with self._computing:
            clock.go_on()
            predictions = predict_study(
                self._predictor,
                study,
                min_lesion_ml=self._wanted.min_lesion_ml,
                uncertainty=self._wanted.uncertainty,
            )
        alarms = find_alarms(study, predictions, getattr(self._predictor, "training_data", None))
        with self._writing:
            part = self._folder.new_part(file_name(files.study))
            self._write(part, files, study, predictions)
            entry = {
                "seconds": round(clock.stop(), 3),
                "masks": {
                    m: {"volume_ml": round(p.volume_ml, 6), "lesions": p.lesions}
                    for m, p in predictions.items()
                },
                "alarms": [dataclasses.asdict(alarm) for alarm in alarms],
                "files": sorted(path.name for path in part.iterdir()),
            }
            with self._adding:
                self._account.studies[files.study] = entry
                self._folder.add(part, self._account.text(finished=False))

    def _write(self, part: Path, files, study, predictions) -> None:
        write_images(predictions, files, part, self._wanted)
        if self._wanted.figures:
            from strokeseg_tf.prediction.contact_sheet import write_contact_sheet

            path = part / f"{file_name(files.study)}.png"
            write_contact_sheet(path, study, predictions, title=files.study)
        if self._write_more:
            self._write_more(files, predictions, part)


class _Clock:
    """Adds up the time that is worked on a study, without the time that it waits."""

    def __init__(self):
        self._seconds, self._since = 0.0, time.perf_counter()

    def stop(self) -> float:
        """Seconds so far; time stands still then."""
        self._seconds += time.perf_counter() - self._since
        return self._seconds

    def go_on(self) -> None:
        """Let time run again."""
        self._since = time.perf_counter()


class _Writing:
    """Counts who writes, so that nobody does any more once it is closed."""

    def __init__(self):
        self._changed = threading.Condition()
        self._writers, self._closed = 0, False

    def __enter__(self):
        with self._changed:
            if self._closed:
                raise InterruptedError("the prediction was stopped")
            self._writers += 1

    def __exit__(self, *error):
        with self._changed:
            self._writers -= 1
            self._changed.notify_all()

    def close(self):
        """Let nobody begin to write, and wait for those who do."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._writers)
