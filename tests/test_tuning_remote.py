"""A search over shards on an S3 server: real commands against a real server on this machine."""

import pytest
from test_remote import ROOT, run, s3_server
from test_tuning import config, tune  # noqa: F401

from strokeseg_tf.cli import main
from tuning.results import read_results


@pytest.mark.slow
def test_a_search_on_a_server_finds_what_it_finds_on_disk(cohort, shards, config, tmp_path):  # noqa: F811
    shares = "train=0.5,validation=0.25,test=0.25"
    options = ("--trials", 2, "--tuner", "random", "--repeats", 1)
    remote, local = tmp_path / "remote", tmp_path / "local"
    with s3_server() as address:
        assert run(address, "convert", cohort, ROOT, "--split", shares).returncode == 0
        line = tune(ROOT, remote, config, *options, "--workers", 2)
        found = run(address, *line, "--fit-best", tmp_path / "run")
        assert found.returncode == 0, found.stderr
        again = run(address, *line, "--resume")
        assert again.returncode == 0 and again.stdout.splitlines()[:-1], again.stderr
        other = run(address, *tune(shards, remote, config, *options), "--resume")
    assert (tmp_path / "run" / "model.keras").is_file()
    assert main(tune(shards, local, config, *options)) == 0
    assert scores(remote) == scores(local)
    # The same records, wherever they lie, are the same cohort.
    assert other.returncode == 0, other.stderr


def scores(folder):
    return {r["trial"]: (r["status"], pytest.approx(r["score"])) for r in read_results(folder)}
