"""The job files of a search: valid, in tune with the command, and the Slurm one is run."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from manifests import check_manifest, read_manifests

from strokeseg_tf.cli import build_parser
from tuning.results import read_results

SEARCH = Path(__file__).parent.parent / "deploy" / "search"
#: Options of sbatch that have no other spelling.
SBATCH = {"job-name", "ntasks", "cpus-per-task", "mem-per-cpu", "time", "requeue", "open-mode"}
TINY = {
    "model": {"variant": "unimodal", "modality": "dwi", "filters": [2, 3], "bottleneck": 4,
              "image_size": 32},
    "training": {"epochs": 1, "batch_size": 4},
}  # fmt: skip


def manifests():
    return read_manifests(SEARCH / "kubernetes.yaml")


def container(name):
    return next(
        m["spec"]["template"]["spec"]["containers"][0]
        for m in manifests()
        if m["kind"] == "Job" and m["metadata"]["name"].endswith(name)
    )


def environment(name):
    config = next(m for m in manifests() if m["kind"] == "ConfigMap")["data"]
    return config | {e["name"]: e.get("value") for e in container(name).get("env", ())}


@pytest.mark.parametrize("at", range(7))
def test_manifests_follow_the_schemas_of_kubernetes(at):
    check_manifest(manifests()[at])
    assert len(manifests()) == 7


def test_who_trains_has_a_gpu_and_holds_none_before():
    jobs = {m["metadata"]["name"]: m["spec"] for m in manifests() if m["kind"] == "Job"}
    for name in ("chief", "worker", "fit"):
        trains = "nvidia.com/gpu" in container(name)["resources"]["limits"]
        assert trains == (name != "chief")
        fits = "--fit-best" in container(name)["command"][-1]
        assert fits == jobs[f"strokeseg-search-{name}"].get("suspend", False) == (name == "fit")


@pytest.mark.parametrize("name", ["chief", "worker", "fit"])
def test_what_the_pods_run_is_a_command_of_ours(name):
    lines = container(name)["command"][-1].replace("$SEARCH", environment(name)["SEARCH"])
    for line in re.findall(r"strokeseg-tf (.+)", lines):
        arguments = build_parser().parse_args(line.split())
        assert arguments.run
    assert "--resume" in lines


def test_pods_agree_on_the_chief_on_the_workers_and_on_the_port():
    chief, worker = environment("chief"), environment("worker")
    kinds = {}
    for document in manifests():
        kinds.setdefault(document["kind"], []).append(document)
    service, policy = kinds["Service"][0], kinds["NetworkPolicy"][0]["spec"]
    assert worker["KERASTUNER_ORACLE_IP"] == service["metadata"]["name"]
    jobs = {job["metadata"]["name"]: job["spec"] for job in kinds["Job"]}
    labels = jobs["strokeseg-search-chief"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels == policy["podSelector"]["matchLabels"]
    port = int(chief["KERASTUNER_ORACLE_PORT"])
    ports = [service["spec"]["ports"][0]["port"], container("chief")["ports"][0]["containerPort"]]
    assert {*ports, policy["ingress"][0]["ports"][0]["port"]} == {port}
    workers = jobs["strokeseg-search-worker"]
    assert workers["completionMode"] == "Indexed"
    assert f"--workers {workers['completions']} " in chief["SEARCH"]
    assert (chief["KERASTUNER_TUNER_ID"], worker["KERASTUNER_TUNER_ID"]) == (
        "chief", "worker$(INDEX)"
    )  # fmt: skip
    for job in jobs.values():  # A dead pod is started again, where a trial waits for its id.
        assert job["template"]["spec"]["restartPolicy"] == "OnFailure"


def test_the_slurm_file_is_a_script_with_options_of_sbatch():
    path = SEARCH / "slurm.sh"
    subprocess.run(["bash", "-n", path], check=True)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = [line for line in lines if line.startswith("#SBATCH")]
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(lines.index(line) < first_command for line in directives)
    assert {re.match(r"#SBATCH --([a-z-]+)", line)[1] for line in directives} == SBATCH


SRUN = """#!/bin/bash
# Runs as many tasks as Slurm would, all here.
shift
pids=()
for task in $(seq 0 $((SLURM_NTASKS - 1))); do
  SLURM_PROCID=$task "$@" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit $status
"""


@pytest.mark.slow
def test_the_slurm_file_searches_fits_and_exports(shards, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    run = f'#!/bin/bash\nexec {sys.executable} -m strokeseg_tf.cli "$@"\n'
    for name, text in (("srun", SRUN), ("strokeseg-tf", run), ("hostname", "echo 127.0.0.1\n")):
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(stat.S_IRWXU)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY), encoding="utf-8")
    out = tmp_path / "out"
    slurm = {"SLURM_NTASKS": "3", "SLURM_JOB_ID": str(os.getpid()), "OUT": str(out)}
    line = ["--preset", "small", "--config", config, "--trials", "2", "--repeats", "1"]
    result = subprocess.run(
        ["bash", SEARCH / "slurm.sh", *line, "--tuner", "random"],
        env=os.environ
        | slurm
        | {"SHARDS": str(shards), "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    results = read_results(out / "search")
    assert [(r["trial"], r["status"]) for r in results] == [
        ("default-0", "complete"), ("0", "complete"), ("1", "complete")
    ]  # fmt: skip
    origin = json.loads((out / "best" / "environment.json").read_text())["search"]
    best = max(results, key=lambda r: r["score"])
    assert origin["name"] == "search" and origin["score"] == best["score"]
    card = (out / "served" / "strokeseg" / "1" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"trial {origin['trial']} of the search `search`" in card
