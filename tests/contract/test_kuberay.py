"""The manifest for Kubernetes says what this program and this version of Ray understand."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from binsight import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def spec() -> dict:
    document = yaml.safe_load((ROOT / "cluster" / "kuberay.yaml").read_text())
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayJob")
    return document["spec"]


def test_its_ray_is_the_one_that_is_tested(spec: dict) -> None:
    [version] = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert spec["rayClusterSpec"]["rayVersion"] == version
    assert f"rayproject/ray:{version}-py311" in (ROOT / "cluster" / "kuberay.yaml").read_text()


def test_its_command_is_one_of_ours(spec: dict) -> None:
    program, *command = shlex.split(spec["entrypoint"])
    assert program == "binsight"
    options = [word for word in command if word.startswith("--")]
    helped = CliRunner().invoke(app, [*command[:2], "--help"], env={"COLUMNS": "200"}).stdout
    assert options == ["--set", "--ray-address"]
    assert all(option in helped for option in options)


def test_every_pod_sees_the_lake_where_the_command_looks_for_it(spec: dict) -> None:
    [lake] = re.findall(r"lake=(\S+)", spec["entrypoint"])
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert len(groups) == 2
    for group in groups:
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        [mount] = container["volumeMounts"]
        assert mount == {"name": "lake", "mountPath": lake}
        assert [volume["name"] for volume in pod["volumes"]] == ["lake"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert set(spec) <= _FIELDS


# Source: KubeRay API reference, ray.io/v1, RayJobSpec.
_FIELDS = {
    "entrypoint",
    "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished",
    "activeDeadlineSeconds",
    "backoffLimit",
    "rayClusterSpec",
}
