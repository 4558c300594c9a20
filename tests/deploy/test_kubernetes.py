import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.admission import Admission
from service.batcher import COMPANY
from service.settings import Settings
from tests.deploy.tools import DEPLOY, ROOT, documents, run, run_module

FOLDER = DEPLOY / "kubernetes"
# The oldest version where all that is used is there: the sleep action is on by default from 1.30.
VERSIONS = ("1.30", "1.34")


@cache
def built(name: str) -> str:
    """What kustomize makes of a folder."""
    return run("kubectl", "kustomize", FOLDER / name)


def found(name: str, kind: str) -> dict[str, Any]:
    [document] = [document for document in documents(built(name)) if document["kind"] == kind]
    return document


def check(manifests: str, version: str, folder: Path) -> None:
    (folder / "manifests.yaml").write_text(manifests)
    run_module("kubernetes_validate", "--strict", "--kubernetes-version", version, folder / "manifests.yaml")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_kubernetes_knows_every_field(name: str, version: str, tmp_path: Path) -> None:
    check(built(name), version, tmp_path)


def test_a_field_that_kubernetes_does_not_know_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="enableServiceLink"):
        check(built("cpu").replace("enableServiceLinks", "enableServiceLink"), VERSIONS[0], tmp_path)


def test_the_containers_of_the_kserve_runtime_are_those_of_a_pod(tmp_path: Path) -> None:
    spec = found("kserve", "ServingRuntime")["spec"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {key: spec[key] for key in ("containers", "volumes")}}
    check(yaml.safe_dump(pod), VERSIONS[0], tmp_path)


def test_the_kserve_service_asks_for_the_runtime_and_is_named_as_its_model() -> None:
    runtime, service = found("kserve", "ServingRuntime"), found("kserve", "InferenceService")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"]["name"] in {known["name"] for known in runtime["spec"]["supportedModelFormats"]}
    assert (ROOT / "models" / service["metadata"]["name"]).is_dir()


def test_a_pod_has_time_to_drain_and_answer_before_it_is_killed() -> None:
    pod = found("cpu", "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    fields = Settings.model_fields
    drained = container["lifecycle"]["preStop"]["sleep"]["seconds"] + fields["drain_seconds"].default + fields["request_deadline_ms"].default / 1000
    assert pod["terminationGracePeriodSeconds"] >= drained + 10


def test_the_service_link_that_would_be_read_as_the_port_is_off() -> None:
    assert found("cpu", "Service")["metadata"]["name"] == "oodgate"
    assert found("cpu", "Deployment")["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_all_that_selects_pods_selects_those_of_the_deployment() -> None:
    deployment = found("cpu", "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    selectors = [deployment["selector"]["matchLabels"], found("cpu", "Service")["spec"]["selector"]]
    selectors.append(found("cpu", "PodDisruptionBudget")["spec"]["selector"]["matchLabels"])
    assert selectors == [labels] * 3


def test_lasting_overload_reaches_the_queue_at_which_the_autoscaler_adds_pods() -> None:
    """The autoscaler takes up to 10 % above its target for the target itself."""
    [metric] = [metric["pods"] for metric in found("cpu", "HorizontalPodAutoscaler")["spec"]["metrics"] if metric["type"] == "Pods"]
    assert metric["metric"]["name"] == "oodgate_queue_images"
    batch, queue = (Settings.model_fields[name].default for name in ("max_batch_size", "max_queue_size"))
    for workers in range(1, 65):
        assert 1.2 * int(metric["target"]["averageValue"]) < Admission(batch, queue, workers * COMPANY).most_in_overload, workers


def test_the_pod_monitor_scrapes_every_replica_as_the_job_that_the_alert_rules_know() -> None:
    monitor, template = found("monitoring", "PodMonitor"), found("cpu", "Deployment")["spec"]["template"]
    labels, [container] = template["metadata"]["labels"], template["spec"]["containers"]
    assert monitor["metadata"]["namespace"] == found("cpu", "Deployment")["metadata"]["namespace"]
    assert monitor["spec"]["selector"]["matchLabels"] == labels
    assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == [port["name"] for port in container["ports"]]
    assert f'up{{job="{labels[monitor["spec"]["jobLabel"]]}"}}' in (DEPLOY / "prometheus" / "rules.yml").read_text()


def test_the_readme_s_command_makes_a_rule_of_the_alert_rules() -> None:
    [command] = re.findall(r"^\(cat <<.*?\)(?= \| kubectl apply --filename -$)", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    rule = yaml.safe_load(run("bash", "-c", f"cd {ROOT} && {command}"))
    assert (rule["kind"], rule["metadata"]["namespace"]) == ("PrometheusRule", "oodgate")
    assert rule["spec"] == yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())


@pytest.mark.parametrize("name", ["cpu", "gpu", "kserve"])
def test_everything_lies_in_a_namespace_that_comes_with_it(name: str) -> None:
    namespace = found(name, "Namespace")["metadata"]["name"]
    others = [document for document in documents(built(name)) if document["kind"] != "Namespace"]
    assert {document["metadata"]["namespace"] for document in others} == {namespace}


def test_kserve_s_pods_are_scraped_where_the_runtime_answers() -> None:
    annotations = found("kserve", "InferenceService")["metadata"]["annotations"]
    assert annotations["serving.kserve.io/enable-prometheus-scraping"] == "true"
    spec = found("kserve", "ServingRuntime")["spec"]
    assert spec["annotations"]["prometheus.kserve.io/port"] == str(spec["containers"][0]["ports"][0]["containerPort"])


def test_a_rollout_needs_no_gpu_to_spare() -> None:
    assert found("gpu", "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_a_pod_goes_to_nodes_that_are_kept_for_gpus_and_asks_for_memory_to_match() -> None:
    pod = found("gpu", "Deployment")["spec"]["template"]["spec"]
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    memory = {kind: amount["memory"] for kind, amount in pod["containers"][0]["resources"].items()}
    assert memory == {"requests": "4Gi", "limits": "8Gi"}


def test_the_gpu_overlay_takes_the_gpu_image_and_a_gpu() -> None:
    [container] = found("gpu", "Deployment")["spec"]["template"]["spec"]["containers"]
    assert (container["image"], container["resources"]["limits"]["nvidia.com/gpu"]) == ("oodgate:gpu", 1)
