"""The command line: instant help, one-line errors, nothing half-written."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from strokeseg_tf.cli import find_commands, main

README = Path(__file__).parent.parent / "README.md"
COMMANDS = sorted(find_commands())


def strokeseg(*arguments, **options):
    program = "import sys; from strokeseg_tf.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_answers_without_importing_anything_heavy(command):
    program = f"""
import sys
from strokeseg_tf.cli import main
try:
    main({[command, "--help"] if command else ["--help"]!r})
except SystemExit as end:
    heavy = {{"tensorflow", "keras", "cv2", "pandas", "numpy"}} & set(sys.modules)
    sys.exit(end.code or ", ".join(heavy) or 0)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: strokeseg-tf")
    assert not command or "examples:" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_shows_every_command(command):
    assert f"strokeseg-tf {command}" in README.read_text(encoding="utf-8")


def readme_commands():
    text = README.read_text(encoding="utf-8").replace("\\\n", " ")
    return sorted(set(re.findall(r"^strokeseg-tf (.+?)(?:\s+#.*)?$", text, re.MULTILINE)))


@pytest.mark.parametrize("line", readme_commands())
def test_every_command_line_of_the_readme_is_understood(line):
    import shlex

    from strokeseg_tf.cli import build_parser

    build_parser().parse_args(shlex.split(line))


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "nowhere", "out"],
        ["convert", ".", "out"],
        ["convert", ".", "out", "--split", "train=2"],
        ["convert", ".", "out", "--split", "nonsense"],
        ["convert", ".", "out", "--layout", "unheard-of"],
        ["dicom", "nowhere", "out"],
        ["dicom", ".", "out"],
        ["dicom", ".", "out", "--layout", "unheard-of"],
        ["dicom", ".", "out", "--timeout", "0"],
        ["lint", "nowhere"],
        ["lint", "."],
        ["lint", ".", "--jobs", "0"],
        ["lint", ".", "--adc-unit", "furlong"],
        ["inspect", "nowhere"],
        ["inspect", "."],
        ["fit", "nowhere", "--run", "r"],
        ["fit", "nowhere", "--run", "r", "--preset", "unheard-of"],
        ["fit", "nowhere", "--run", "r", "--variant", "unheard-of"],
        ["fit", "nowhere", "--run", "r", "--epochs", "0"],
        ["fit", "nowhere", "--run", "r", "--config", "missing.json"],
        ["fit", "nowhere"],
        ["evaluate", "nowhere", "--data", "nowhere", "-o", "out"],
        ["evaluate", "nowhere", "--data", "nowhere", "-o", "out", "--convention", "unheard-of"],
        ["predict", "nowhere", "nowhere", "-o", "out"],
        ["predict", "nowhere", "-o", "out"],
        ["predict", "nowhere", "--adc", "missing.nii.gz", "-o", "out"],
        ["predict", "nowhere", "nowhere", "-o", "out", "--parallel", "0"],
        ["export", "nowhere", "out"],
        ["synth", "out", "--studies", "1", "--controls", "2"],
        ["synth", "out", "--slices", "26-20"],
        ["unheard-of"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_answered_in_one_line_with_exit_2_and_nothing_written(
    arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert re.fullmatch(r"strokeseg-tf: error: .+\n", captured.err), captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_ours_is_no_user_error(tmp_path):
    broken = "import strokeseg_tf.commands.synth as s; s.run = lambda a: 1 / 0\n"
    program = (
        broken + "import sys; from strokeseg_tf.cli import main; sys.exit(main(['synth', 'x']))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_ctrl_c_ends_with_130_and_leaves_nothing_half_written(tmp_path):
    program = "import sys; from strokeseg_tf.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "synth", str(tmp_path / "out"), "--studies", "200"],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob(".out.*/phantom-001")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_an_output_in_a_place_that_cannot_be_written_is_one_line(cohort, tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = strokeseg("convert", cohort, tmp_path / "file" / "out")
    assert result.returncode == 2
    assert re.fullmatch(r"strokeseg-tf: error: .+\n", result.stderr), result.stderr


def test_the_chain_from_studies_to_masks(cohort, tmp_path):
    """convert, inspect, fit, evaluate, predict and export, as a user types them."""
    config = {
        "model": {"filters": [2, 3], "bottleneck": 3, "image_size": 32},
        "training": {"epochs": 1},
    }
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    lines = [
        ["convert", cohort, "shards", "--split", "train=0.5,validation=0.25,test=0.25"],
        ["inspect", "shards", "--json"],
        ["fit", "shards", "--run", "run", "--preset", "small", "--config", "tiny.json"],
        ["evaluate", "run", "--data", "shards", "-o", "evaluation"],
        ["export", "run", "served"],
        ["predict", "served", cohort, "-o", "predictions", "--probabilities", "--json"],
    ]
    results = {}
    for line in lines:
        result = strokeseg(*line, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "tensorflow/" not in result.stderr  # TensorFlow's chatter
        results.setdefault(line[0], result)
    inspected = json.loads(results["inspect"].stdout)
    assert inspected["counts"]["train"]["studies"] == 4
    predicted = json.loads(results["predict"].stdout)
    assert predicted == json.loads((tmp_path / "predictions" / "predictions.json").read_text())
    for name in ("scores.csv", "summary.json", "table1.md", "report.html", "figures"):
        assert (tmp_path / "evaluation" / name).exists()
    for modality in ("adc", "dwi"):
        assert (tmp_path / "predictions" / f"phantom-001_{modality}_mask.nii.gz").is_file()
    assert len(list((tmp_path / "predictions").glob("*_probability.nii.gz"))) == 16
    assert (tmp_path / "served" / "1" / "saved_model.pb").is_file()


def test_a_flipped_bit_in_a_shard_stops_training_with_its_name(shards, tmp_path):
    damaged = tmp_path / "shards"
    shutil.copytree(shards, damaged)
    shard = next(damaged.glob("train-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    for command in (["inspect", damaged], ["fit", damaged, "--run", tmp_path / "r"]):
        result = strokeseg(*command, *(["--preset", "small"] if command[0] == "fit" else []))
        assert result.returncode == 2
        assert shard.name in result.stderr and "Traceback" not in result.stderr
