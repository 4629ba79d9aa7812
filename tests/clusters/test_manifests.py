"""The Kubernetes manifests: valid by the schemas of Kubernetes and of the operator, and consistent in themselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from distrain.cli.main import main
from distrain.job.load import load_job
from distrain.job.schema import Circles
from distrain.train.schedule import make_schedule
from tests.clusters.manifests import K8S, OVERLAYS, ROOT, Resource, rendered, resource, resources, templates

VERSIONS = ("1.35", "1.36", "1.37")
MPI = ("cpu-smoke", "elastic", "multi-gpu")
# The operator's definition of an MPIJob is not part of this repository; where it is, the environment says.
DEFINITION = Path(os.environ.get("MPIJOB_CRD", ROOT.parent / "shared/data/kubeflow.org_mpijobs.v0.8.2.yaml"))


def test_the_overlays() -> None:
    assert OVERLAYS == ["cpu-smoke", "elastic", "multi-gpu", "single-gpu"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_resource_is_valid_for_kubernetes(overlay: str, version: str) -> None:
    checked = [each for each in resources(overlay) if each["kind"] != "MPIJob"]
    # Of an MPIJob, what Kubernetes gets to see in the end: its pods.
    checked += [{"apiVersion": "v1", "kind": "PodTemplate", "template": each} for each in templates(overlay).values()]
    for each in checked:
        kubernetes_validate.validate(each, version, strict=True)
    assert len(checked) >= 8


def test_the_validator_sees_what_is_wrong() -> None:
    (template, *_) = templates("cpu-smoke").values()
    template["spec"]["containers"][0]["comand"] = []
    wrong = {"apiVersion": "v1", "kind": "PodTemplate", "template": template}
    with pytest.raises(kubernetes_validate.ValidationError, match="comand"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.fixture(scope="module")
def definition() -> Any:
    if not DEFINITION.exists():
        pytest.skip(f"the operator's definition of an MPIJob is not here ({DEFINITION}; MPIJOB_CRD says where)")
    (version,) = yaml.safe_load(DEFINITION.read_text(encoding="utf-8"))["spec"]["versions"]
    return closed(version["schema"]["openAPIV3Schema"])


def closed(schema: Any) -> Any:
    """The schema, refusing what it does not name: an API server would drop that without a word."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and "type" in made and "additionalProperties" not in made:
        open_object = made.get("x-kubernetes-preserve-unknown-fields") or not made["properties"]
        made["additionalProperties"] = bool(open_object)
    return made


@pytest.mark.parametrize("overlay", MPI)
def test_an_mpi_job_is_valid_for_the_operator(overlay: str, definition: Any) -> None:
    job = resource(overlay, "MPIJob")
    # The definition leaves an object's metadata to Kubernetes.
    jsonschema.validate({**job, "metadata": {}}, definition)
    job["spec"]["runPolicy"]["cleanPodsPolicy"] = "Running"
    with pytest.raises(jsonschema.ValidationError, match="cleanPodsPolicy"):
        jsonschema.validate({**job, "metadata": {}}, definition)


@pytest.mark.parametrize("overlay", MPI)
def test_what_the_operator_refuses_or_does_otherwise_than_it_says(overlay: str) -> None:
    job = resource(overlay, "MPIJob")
    spec, replicas = job["spec"], job["spec"]["mpiReplicaSpecs"]
    assert replicas["Launcher"]["replicas"] == 1
    assert {replica["restartPolicy"] for replica in replicas.values()} <= {"Never", "OnFailure"}
    assert all("restartPolicy" not in replica["template"]["spec"] for replica in replicas.values())
    assert spec["runPolicy"]["cleanPodPolicy"] == "Running"  # the default keeps GPUs
    longest = f"{job['metadata']['name']}-worker-{replicas['Worker']['replicas'] - 1}"
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", longest)


@pytest.mark.parametrize("overlay", MPI)
def test_the_launcher_expects_the_workers_that_there_are(overlay: str) -> None:
    spec = resource(overlay, "MPIJob")["spec"]
    command = launched(overlay)
    slots = spec["slotsPerWorker"]
    assert int(command[command.index("-n") + 1]) == slots * spec["mpiReplicaSpecs"]["Worker"]["replicas"]
    assert 60 <= int(command[command.index("--wait") + 1]) <= 3600
    if "--discover" in command:
        # The script names hosts without a number of workers.
        assert int(command[command.index("--slots-per-host") + 1]) == slots


@pytest.mark.parametrize("overlay", MPI)
def test_there_is_an_example_for_each_worker(overlay: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(resource(overlay, "ConfigMap")["data"]["job.yaml"], encoding="utf-8")
    command = launched(overlay)
    most = int(command[command.index("-n") + 1])
    if "--elastic" in command:
        most = int(command[command.index("--elastic") + 1].partition(":")[2])
    job = load_job(tmp_path / "job.yaml", overridden(command))
    assert isinstance(job.data.train, Circles)
    schedule = make_schedule(job.train, examples=job.data.train.examples, seed=job.seed, size=most)
    assert schedule.plan.batch_size <= schedule.examples


def overridden(command: list[str]) -> list[str]:
    return [after for word, after in pairwise(command) if word == "-o"]


def launched(overlay: str) -> list[str]:
    (container,) = templates(overlay)["launcher"]["spec"]["containers"]
    return [*container["command"], *container["args"]]


@pytest.mark.parametrize("overlay", MPI)
def test_ssh_is_where_the_image_has_it(overlay: str) -> None:
    settings = (ROOT / "docker" / "image" / "sshd_config").read_text(encoding="utf-8")
    folder = resource(overlay, "MPIJob")["spec"]["sshAuthMountPath"]
    assert f"HostKey {folder}/id_rsa" in settings
    assert f"AuthorizedKeysFile {folder}/authorized_keys" in settings
    ports = {port["name"]: port["containerPort"] for port in container(overlay, "worker")["ports"]}
    assert f"\nPort {ports['ssh']}\n" in settings


def container(overlay: str, name: str) -> Resource:
    (found,) = templates(overlay)[name]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("overlay", MPI)
def test_a_drained_pod_has_time_for_a_checkpoint(overlay: str) -> None:
    variables = {each["name"]: each["value"] for each in container(overlay, "worker")["env"]}
    grace = templates(overlay)["worker"]["spec"]["terminationGracePeriodSeconds"]
    assert 60 <= int(variables["DISTRAIN_DRAIN_SECONDS"]) <= grace - 15


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_restricted(overlay: str) -> None:
    """What Pod Security's level `restricted` asks for, and a root file system that nobody writes to."""
    for template in templates(overlay).values():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec["automountServiceAccountToken"]
        assert template["metadata"]["labels"]["app.kubernetes.io/name"] == "distrain"  # what the network policy selects
        for each in spec["containers"]:
            context = each["securityContext"]
            assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert each["resources"]["limits"]["memory"] == each["resources"]["requests"]["memory"]
        kinds = {next(kind for kind in volume if kind != "name") for volume in spec["volumes"]}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_job_runs_as_it_is_written(overlay: str, tmp_path: Path) -> None:
    text = resource(overlay, "ConfigMap")["data"]["job.yaml"]
    assert text == (ROOT / "launch" / "jobs" / "circles.yaml").read_text(encoding="utf-8")
    (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "hostfile").write_text("".join(f"circles-worker-{number} slots=8\n" for number in range(4)))
    (tmp_path / "discover_hosts.sh").write_text("#!/bin/sh\necho elastic-worker-0\n")
    (tmp_path / "discover_hosts.sh").chmod(0o755)
    name = "launcher" if overlay in MPI else "train"
    command = [*container(overlay, name)["command"], *container(overlay, name)["args"]]
    assert command[0] == "distrain"
    # Where the annotations say that Prometheus finds it.
    annotated = [template["metadata"].get("annotations", {}) for template in templates(overlay).values()]
    (port,) = {each["prometheus.io/port"] for each in annotated if each.get("prometheus.io/scrape") == "true"}
    assert command[-2:] == ["-o", f"log.serve=0.0.0.0:{port}"]
    changed = [re.sub("/etc/(mpi|distrain)/", f"{tmp_path}/", word) for word in command[1:]]
    if overlay in MPI:
        assert main([changed[0], "--dry-run", *changed[1:]]) == 0
    else:
        assert load_job(Path(changed[1]), overridden(changed)).train.steps == 40


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_policy_scanner_finds_nothing_that_is_not_explained(overlay: str, tmp_path: Path) -> None:
    checkov = os.environ.get("CHECKOV") or shutil.which("checkov")
    if checkov is None:
        pytest.skip("checkov is not installed (uv tool install checkov; CHECKOV says where)")
    (tmp_path / "rendered.yaml").write_text(rendered(overlay), encoding="utf-8")
    # It knows no MPIJob: its pods, as the operator makes them.
    for name, template in templates(overlay).items():
        pod = {**template, "apiVersion": "v1", "kind": "Pod"}
        pod["metadata"] = {**template["metadata"], "name": name, "namespace": "distrain"}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(pod), encoding="utf-8")
    skipped = ",".join(explained())
    command = [checkov, "--directory", str(tmp_path), "--framework", "kubernetes", "--compact", "--quiet"]
    done = subprocess.run([*command, "--skip-check", skipped], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def explained() -> list[str]:
    """The scanner's rules that k8s/README.md says why not to follow."""
    return re.findall(r"^\| (CKV2?_K8S_\d+) \|", (K8S / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
