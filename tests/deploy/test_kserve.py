"""The example for KServe against the fields of its resource that it uses; no cluster sees it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from jschon import JSON, JSONSchema, create_catalog

from moesaic.cli.application import app
from moesaic.host.serving.access import OPEN_PATHS

ROOT = Path(__file__).resolve().parents[2]


def thing(required: str, **properties: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


def listed(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
TEXT, FLAG, COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
POSITIVE = {"type": "integer", "minimum": 1}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
QUANTITY = {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?(m|[KMGT]i?)?$"}
AMOUNTS = thing("", cpu=QUANTITY, memory=QUANTITY)
PROBE = thing(
    "httpGet",
    httpGet=thing("path port", path={"type": "string", "pattern": "^/"}, port=PORT),
    initialDelaySeconds=COUNT,
    periodSeconds=POSITIVE,
    failureThreshold=POSITIVE,
)
CONTAINER = thing(
    "name image",
    name={"const": "kserve-container"},  # the one that KServe takes for the server
    image=TEXT,
    args=listed(TEXT),
    env=listed(thing("name value", name=TEXT, value=TEXT)),
    ports={**listed(thing("containerPort", containerPort=PORT, protocol=TEXT)), "maxItems": 1},
    readinessProbe=PROBE,
    livenessProbe=PROBE,
    resources=thing("", requests=AMOUNTS, limits=AMOUNTS),
    securityContext=thing(
        "",
        allowPrivilegeEscalation=FLAG,
        readOnlyRootFilesystem=FLAG,
        capabilities=thing("", drop=listed(TEXT)),
    ),
)
POD_SECURITY = thing(
    "",
    runAsNonRoot=FLAG,
    runAsUser=COUNT,
    seccompProfile=thing("type", type={"enum": ["RuntimeDefault", "Localhost", "Unconfined"]}),
)
SCHEMA = thing(
    "apiVersion kind metadata spec",
    apiVersion={"const": "serving.kserve.io/v1beta1"},
    kind={"const": "InferenceService"},
    metadata=thing("name", name=NAME),
    spec=thing(
        "predictor",
        predictor=thing(
            "containers",
            minReplicas=COUNT,
            maxReplicas=COUNT,
            terminationGracePeriodSeconds=COUNT,
            securityContext=POD_SECURITY,
            containers=listed(CONTAINER),
        ),
    ),
)


@cache
def schema() -> JSONSchema:
    create_catalog("2020-12")
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return JSONSchema({**dialect, **SCHEMA})


def valid(document: Any) -> bool:
    return schema().evaluate(JSON(document)).valid


@pytest.fixture
def document() -> Any:
    return yaml.safe_load((ROOT / "deploy" / "kserve.yaml").read_text())


def server(document: Any) -> Any:
    (container,) = document["spec"]["predictor"]["containers"]
    return container


def test_fields(document: Any) -> None:
    assert valid(document)


WRONG: list[Callable[[Any], object]] = [
    lambda d: d.update(apiVersion="serving.kserve.io/v1"),
    lambda d: d["metadata"].update(name="Moesaic"),
    lambda d: d["spec"].pop("predictor"),
    lambda d: d["spec"]["predictor"].update(minReplica=2),
    lambda d: server(d).update(name="server"),
    lambda d: server(d).update(args="/mnt/models"),
    lambda d: server(d)["args"].append(8080),
    lambda d: server(d)["env"][0].update(value=3),
    lambda d: server(d)["ports"].append({"containerPort": 8001}),
    lambda d: server(d)["readinessProbe"]["httpGet"].update(port="8080"),
    lambda d: server(d)["resources"]["limits"].update(memory="4 GB"),
]


@pytest.mark.parametrize("spoil", WRONG)
def test_wrong_fields_are_found(document: Any, spoil: Callable[[Any], object]) -> None:
    spoiled = copy.deepcopy(document)
    spoil(spoiled)
    assert not valid(spoiled)


def test_it_says_what_the_server_understands(document: Any) -> None:
    container = server(document)
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    given = command.make_context("serve", list(container["args"])).params
    (port,) = container["ports"]
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("readiness", "liveness")]
    assert {probe["port"] for probe in probes} == {given["port"]} == {port["containerPort"]}
    assert {probe["path"] for probe in probes} == set(OPEN_PATHS)
    assert given["bundles"] == ["/mnt/models"] and given["host"] == "0.0.0.0"
    account = document["spec"]["predictor"]["securityContext"]["runAsUser"]
    assert f"USER {account}:" in (ROOT / "deploy" / "Containerfile").read_text()
