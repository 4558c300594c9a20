import re

import pytest

from tests.deploy.tools import DEPLOY, ROOT, documents, run_module

COMPOSE = next(documents((ROOT / "docker-compose.yml").read_text()))
GPU = next(documents((ROOT / "compose.gpu.yaml").read_text()))


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


def test_with_a_gpu_every_replica_runs_the_gpu_image_and_insists_on_cuda() -> None:
    for name in ("oodgate-1", "oodgate-2"):
        replica = GPU["services"][name]
        assert (replica["image"], replica["build"]["target"], replica["environment"]["OODGATE_DEVICE"]) == ("oodgate:gpu", "gpu", "cuda")
        [device] = replica["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]


def test_nothing_runs_with_more_rights_than_it_needs() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    for name in ("oodgate-1", "oodgate-2", "nginx"):
        assert COMPOSE["services"][name]["read_only"], name
