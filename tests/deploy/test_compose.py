import ipaddress
import re

import pytest
import yaml

from tests.deploy.tools import DEPLOY, ROOT, documents, run_module

COMPOSE = next(documents((ROOT / "docker-compose.yml").read_text()))
GPU = next(documents((ROOT / "compose.gpu.yaml").read_text()))
REPLICAS = ("oodgate-1", "oodgate-2")


@pytest.mark.parametrize("file", ["docker-compose.yml", "compose.gpu.yaml"])
def test_it_is_what_the_compose_specification_allows(file: str) -> None:
    run_module("check_jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / file)


def test_every_mounted_file_is_in_the_repository() -> None:
    sources = {volume.split(":")[0] for service in COMPOSE["services"].values() for volume in service["volumes"]}
    mounted = [source for source in sources if source.startswith("./")]
    assert len(mounted) >= 6
    for source in mounted:
        assert (ROOT / source).exists(), source
    assert sources - set(mounted) == set(COMPOSE["volumes"])


def test_nginx_and_prometheus_know_every_replica_and_no_other() -> None:
    replicas = {name: service for name, service in COMPOSE["services"].items() if service["image"].startswith("oodgate")}
    addresses = {service["networks"]["default"]["ipv4_address"] + ":8000" for service in replicas.values()}
    assert set(re.findall(r"^\s+server (\S+)", (DEPLOY / "nginx" / "upstream.conf").read_text(), re.MULTILINE)) == addresses
    jobs = {job["job_name"]: job for job in next(documents((DEPLOY / "prometheus" / "prometheus.yml").read_text()))["scrape_configs"]}
    assert set(jobs["oodgate"]["static_configs"][0]["targets"]) == {f"{name}:8000" for name in replicas}


def test_nobody_else_is_given_the_address_of_a_replica() -> None:
    [config] = COMPOSE["networks"]["default"]["ipam"]["config"]
    given, range_ = ipaddress.ip_network(config["subnet"]), ipaddress.ip_network(config["ip_range"])
    for name in REPLICAS:
        address = ipaddress.ip_address(COMPOSE["services"][name]["networks"]["default"]["ipv4_address"])
        assert address in given, name
        assert address not in range_, name
    assert range_.subnet_of(given)


def test_every_replica_keeps_its_state_in_a_volume_of_its_own() -> None:
    volumes = {name: [volume for volume in COMPOSE["services"][name]["volumes"] if volume.endswith(":/state")] for name in REPLICAS}
    assert volumes == {"oodgate-1": ["state-1:/state"], "oodgate-2": ["state-2:/state"]}
    for name in REPLICAS:
        assert COMPOSE["services"][name]["environment"] == {"OODGATE_STATE_DIR": "/state"}
    assert re.search(r"install -d -o 10001 -g 10001 /state$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_with_a_gpu_every_replica_runs_the_gpu_image_and_insists_on_cuda() -> None:
    for name in REPLICAS:
        replica = GPU["services"][name]
        assert (replica["image"], replica["build"]["target"], replica["environment"]["OODGATE_DEVICE"]) == ("oodgate:gpu", "gpu", "cuda")
        [device] = replica["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]


def test_a_gpu_has_as_long_to_get_ready_as_on_kubernetes() -> None:
    overlay = yaml.safe_load((DEPLOY / "kubernetes" / "gpu" / "kustomization.yaml").read_text())
    [patch] = [patch for patches in overlay["patches"] for patch in yaml.safe_load(patches["patch"]) if patch["path"].endswith("failureThreshold")]
    # The probe's period is two seconds.
    for name in REPLICAS:
        assert GPU["services"][name]["healthcheck"] == {"start_period": f"{2 * patch['value']}s"}


def test_nothing_fills_memory_or_disk_without_a_limit() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["logging"] == {"driver": "local"}, name
        assert service["deploy"]["resources"]["limits"]["memory"], name
        for mount in service.get("tmpfs", []):
            assert re.search(r":size=\d+m$", mount), name


def test_nginx_has_time_to_answer_its_slowest_request() -> None:
    text = (DEPLOY / "nginx" / "nginx.conf").read_text()
    read, again = (int(re.search(rf" {name} (\d+)s;", text)[1]) for name in ("proxy_read_timeout", "proxy_next_upstream_timeout"))  # type: ignore[index]
    assert int(COMPOSE["services"]["nginx"]["stop_grace_period"].removesuffix("s")) >= read + again


def test_nothing_runs_with_more_rights_than_it_needs() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    for name in (*REPLICAS, "nginx"):
        assert COMPOSE["services"][name]["read_only"], name
