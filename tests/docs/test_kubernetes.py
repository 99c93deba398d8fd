"""The Kubernetes manifests of the deployment guide."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from proxy.settings import VARIABLES, Settings, SettingsError
from tests.conftest import ROOT
from tests.support import container
from tests.support.service import GRACEFUL_SECONDS

FOLDER = ROOT / "docs" / "kubernetes"
FILES = sorted(FOLDER.iterdir())


def manifest(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return content


DEPLOYMENT = manifest("deployment.yaml")
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


@pytest.mark.parametrize("version", ["1.28", "1.37"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_manifest__schema_of_kubernetes__is_met(path: Path, version: str) -> None:
    kubernetes_validate.validate(manifest(path.name), version, strict=True)


def test_manifest__wrong_key__is_found() -> None:
    broken = copy.deepcopy(DEPLOYMENT)
    broken["spec"]["template"]["spec"]["terminationGracePeriod"] = 35
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_manifests__names_and_labels__refer_to_each_other() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    service, secret, budget = (manifest(f"{name}.yaml") for name in ("service", "secret", "disruption-budget"))
    selectors = [
        DEPLOYMENT["spec"]["selector"]["matchLabels"],
        POD["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
        service["spec"]["selector"],
        budget["spec"]["selector"]["matchLabels"],
    ]
    assert selectors == [labels] * 4
    assert CONTAINER["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"]}}]
    (port,) = CONTAINER["ports"]
    probes = [CONTAINER[f"{kind}Probe"]["httpGet"] for kind in ("liveness", "readiness")]
    assert [probe["port"] for probe in probes] == [port["name"]] * 2
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert [probe["path"] for probe in probes] == ["/healthz", "/readyz"]
    assert 1 <= budget["spec"]["minAvailable"] < DEPLOYMENT["spec"]["replicas"]


def test_deployment__time_to_stop__covers_the_pause_and_gunicorn() -> None:
    name, pause = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert name == "sleep"
    assert POD["terminationGracePeriodSeconds"] >= int(pause) + GRACEFUL_SECONDS + 5


def test_deployment__user_and_port__are_those_of_the_image() -> None:
    dockerfile = dict(container.instructions())
    context = POD["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == dockerfile["USER"]
    assert str(CONTAINER["ports"][0]["containerPort"]) == dockerfile["EXPOSE"]
    assert context["runAsNonRoot"]
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_settings__in_the_manifests__exist() -> None:
    names = {*manifest("secret.yaml")["stringData"], *(variable["name"] for variable in CONTAINER["env"])}
    assert names <= {*VARIABLES.keys(), *VARIABLES.values()}


def test_secret__placeholders__are_refused_by_name() -> None:
    placeholders = manifest("secret.yaml")["stringData"]
    with pytest.raises(SettingsError) as error:
        Settings.from_env(placeholders)
    assert [name for name in placeholders if name not in str(error.value)] == []
