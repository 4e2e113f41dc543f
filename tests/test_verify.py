"""`strokeseg-tf verify`: an export is what it was, or the difference is named."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from test_serving import make_run

from strokeseg_tf.cli import main
from strokeseg_tf.serving.export import export
from strokeseg_tf.serving.layout import (
    DESCRIPTION,
    EXAMPLE,
    WARMUP,
    files_of,
    read_description,
    write_description,
)
from strokeseg_tf.serving.verification import verify
from tfrecord_tools.errors import InputError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    return make_run(folder, variant="unimodal", filters=[2], image_size=16)


@pytest.fixture(scope="module")
def served(run, tmp_path_factory):
    return export(run.folder, tmp_path_factory.mktemp("served") / "strokeseg")


@pytest.fixture(scope="module")
def signatures(served):
    model = tf.saved_model.load(str(served))
    yield dict(model.signatures)


@pytest.fixture
def copy(served, tmp_path):
    """A copy of the export, to be tampered with."""
    return shutil.copytree(served, tmp_path / "strokeseg" / "1")


def sign_again(folder):
    """Make the checksums right again, as someone would who wants to hide a change."""
    description = read_description(folder)
    write_description(folder, {k: v for k, v in description.items() if k != "files"})


def example_of(folder):
    with np.load(folder / EXAMPLE, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def complaint(capsys, *arguments):
    """What `verify` says on standard error: one line, and exit status 2."""
    assert main(["verify", *map(str, arguments)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("strokeseg-tf: error: ") and printed.count("\n") == 1
    return printed


def test_an_export_verifies_where_it_was_made(served, capsys):
    assert main(["verify", str(served.parent)]) == 0
    printed = capsys.readouterr()
    assert str(served) in printed.out and not printed.err
    assert "0.001" in printed.out


def test_every_file_has_a_checksum_and_there_is_no_other(served):
    files = read_description(served)["files"]
    assert sorted(files) == files_of(served)
    assert {"saved_model.pb", "MODEL_CARD.md", "model_card.json", WARMUP.as_posix()} <= set(files)
    assert sum(path.is_file() for path in served.rglob("*")) == len(files) + 1


def test_json_is_one_document(served, capsys):
    assert main(["verify", str(served), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == verify(served)
    assert result["differences"] == []
    assert result["example"]["max_difference"] <= result["example"]["tolerance"]


def test_each_changed_missing_and_additional_file_is_named(copy, capsys):
    weights = copy / "variables" / "variables.data-00000-of-00001"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    (copy / "MODEL_CARD.md").unlink()
    (copy / "batching_params.pbtxt").write_text("max_batch_size { value: 32 }")
    said = complaint(capsys, copy)
    assert "changed: variables/variables.data-00000-of-00001" in said
    assert "missing: MODEL_CARD.md" in said
    assert "additional: batching_params.pbtxt" in said
    assert verify(copy)["example"] is None


def test_probabilities_that_differ_are_found_behind_right_checksums(copy, capsys):
    example = example_of(copy)
    example["adc_probability"] += 0.01
    np.savez_compressed(copy / EXAMPLE, **example)
    sign_again(copy)
    assert "off by 0.01" in complaint(capsys, copy)


def test_a_probability_that_is_no_number_is_a_difference(copy, capsys):
    example = example_of(copy)
    example["adc_probability"][0] = np.nan
    np.savez_compressed(copy / EXAMPLE, **example)
    sign_again(copy)
    assert "off by nan" in complaint(capsys, copy)


def test_the_example_is_a_phantom_of_the_documented_kind(served):
    example = example_of(served)
    assert set(example) == {"adc", "adc_probability"}
    assert {array.shape for array in example.values()} == {(8, 64, 64)}
    assert 0.5 < np.median(example["adc"][example["adc"] > 0]) < 3  # 1e-3 mm2/s, as in a head


def pickled(folder):
    np.savez(folder / EXAMPLE, adc=np.array([{"any": "object"}], dtype=object))


def of_other_shape(folder):
    np.savez(
        folder / EXAMPLE,
        **{n: a[:, :9] for n, a in example_of(folder).items()}
        | {"adc_probability": np.zeros((1, 2, 3), np.float32)},
    )


DAMAGES = {
    "not json": lambda folder: (folder / DESCRIPTION).write_text("{"),
    "not an object": lambda folder: (folder / DESCRIPTION).write_text("[]"),
    "no threshold": lambda folder: (folder / DESCRIPTION).write_text("{}"),
    "no checksums": lambda folder: (folder / DESCRIPTION).write_text('{"threshold": 0.5}'),
    "pickle": pickled,
    "not an archive": lambda folder: (folder / EXAMPLE).write_bytes(b"PK\x03\x04" + bytes(99)),
    "no example": lambda folder: (folder / EXAMPLE).unlink(),
    "other shape": of_other_shape,
    "other input": lambda folder: np.savez(folder / EXAMPLE, dwi=np.zeros((1, 4, 4), np.float32)),
    "no graph": lambda folder: (folder / "saved_model.pb").write_bytes(b""),
    "no weights": lambda folder: shutil.rmtree(folder / "variables"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_behind_right_checksums_is_one_line(copy, capsys, damage):
    DAMAGES[damage](copy)
    if damage not in ("not json", "not an object", "no threshold", "no checksums"):
        sign_again(copy)
    assert str(copy) in complaint(capsys, copy)


def test_what_is_no_export_is_said_so(tmp_path, capsys):
    assert "is no export" in complaint(capsys, tmp_path / "nothing")
    assert "is no export" in complaint(capsys, tmp_path)
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"))
    assert "strokeseg_tf.json" in complaint(capsys, tmp_path)


def test_of_several_versions_the_highest_is_verified(copy):
    shutil.copytree(copy, copy.parent / "10")
    (copy / "MODEL_CARD.md").unlink()
    assert verify(copy.parent)["export"].endswith("/10")
    assert not verify(copy.parent)["differences"]


def test_a_version_appears_whole_or_not_at_all(run, copy, tmp_path):
    before = files_of(copy.parent)
    with pytest.raises(InputError, match="has a version 1"):
        export(run.folder, copy.parent, version=1)
    with pytest.raises(InputError, match="summary.json"):
        export(run.folder, copy.parent, evaluation=tmp_path)
    assert files_of(copy.parent) == before


def warmup_requests(folder):
    for record in tf.data.TFRecordDataset(str(folder / WARMUP)).as_numpy_iterator():
        log = PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        yield log.predict_log.request


def test_warm_up_requests_run_on_every_signature(served, signatures):
    requests = list(warmup_requests(served))
    assert [r.model_spec.signature_name for r in requests] == list(dict.fromkeys(signatures))
    assert len(requests) <= 1000
    for request in requests:
        inputs = {name: tf.constant(tf.make_ndarray(t)) for name, t in request.inputs.items()}
        outputs = signatures[request.model_spec.signature_name](**inputs)
        for name, value in outputs.items():
            assert value.dtype == tf.string or np.isfinite(value.numpy()).all(), name


def test_warm_up_is_small_on_disk_and_like_a_study_in_shape(served):
    assert (served / WARMUP).stat().st_size < 1000
    first = next(warmup_requests(served))
    assert [d.size for d in first.inputs["adc"].tensor_shape.dim] == [8, 256, 256]


def test_requests_may_be_joined_slice_by_slice_but_studies_may_not(signatures):
    """Why `deploy/batching.config` is as it is."""
    rng = np.random.default_rng(0)

    def joined_and_apart(signature, shape, scales):
        studies = [tf.constant(scale * rng.random(shape), tf.float32) for scale in scales]
        ask = signatures[signature]
        joined = ask(adc=tf.concat(studies, 0))["adc_probability"]
        return joined, tf.concat([ask(adc=study)["adc_probability"] for study in studies], 0)

    joined, apart = joined_and_apart("preprocessed", (2, 16, 16, 1), (1, 0.1))
    np.testing.assert_allclose(joined, apart, atol=1e-6)
    joined, apart = joined_and_apart("serving_default", (2, 16, 16), (1, 1000))
    assert np.abs(joined - apart).max() > 1e-4
