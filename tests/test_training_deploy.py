"""The job files of a training on several machines: valid, and each worker finds its place."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from manifests import check_manifest, read_manifests

from strokeseg_tf.cli import build_parser
from strokeseg_tf.engine.distribution import Cluster, read_cluster

FILES = Path(__file__).parent.parent / "deploy" / "training"

#: Stands for the program in a job file's script: says how it was called, and trains nothing.
TELL = '#!/bin/bash\necho "$TF_CONFIG"\necho "$@"\n'
SRUN = '#!/bin/bash\nshift\nfor SLURM_PROCID in 0 1; do export SLURM_PROCID; "$@"; done\n'
SCONTROL = "#!/bin/bash\nprintf 'node1\\nnode2\\n'\n"


def manifests():
    return read_manifests(FILES / "kubernetes.yaml")


@pytest.fixture
def programs(tmp_path):
    for name, text in (("strokeseg-tf", TELL), ("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(stat.S_IRWXU)
    return os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


def calls(command, environment):
    """`(cluster, arguments)` of each call of the program."""
    lines = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    told = zip(lines[::2], lines[1::2], strict=True)
    return [
        (read_cluster({"TF_CONFIG": text}), build_parser().parse_args(line.split()))
        for text, line in told
    ]


@pytest.mark.parametrize("at", range(4))
def test_manifests_follow_the_schemas_of_kubernetes(at):
    check_manifest(manifests()[at])
    assert len(manifests()) == 4


def test_pods_find_each_other(programs):
    service, policy, job, volume = manifests()
    container = job["spec"]["template"]["spec"]["containers"][0]
    workers = int(container["env"][0]["value"])
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == workers
    for index in range(workers):
        pod = programs | {"WORKERS": str(workers), "JOB_COMPLETION_INDEX": str(index)}
        ((cluster, arguments),) = calls(container["command"], pod)
        assert cluster == Cluster(workers, index) and arguments.resume
    template = job["spec"]["template"]
    assert template["metadata"]["labels"] == service["spec"]["selector"]
    assert template["spec"]["subdomain"] == service["metadata"]["name"]
    assert policy["spec"]["podSelector"]["matchLabels"] == service["spec"]["selector"]
    claim = template["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert claim == volume["metadata"]["name"]


def test_tasks_of_slurm_find_each_other(programs):
    slurm = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "node[1-2]", "SHARDS": "s", "RUN": "r"}
    command = ["bash", FILES / "slurm.sh", "--preset", "paper", "--batch-size", "32"]
    told = calls(command, programs | slurm)
    assert [cluster for cluster, _ in told] == [Cluster(2, 0), Cluster(2, 1)]
    for _, arguments in told:
        assert (arguments.shards, arguments.folder, arguments.preset) == ("s", "r", "paper")
