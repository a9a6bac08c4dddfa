"""Versions of what is installed, without importing it, against the ranges that xtrain was made for."""

from __future__ import annotations

import platform
import re
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import xtrain
from xtrain.doctor.findings import Finding, note, ok, problem

NAMED = ("torch", "deepspeed", "transformers", "datasets", "wandb", "submitit")
"""Shown one by one; the others only where something is wrong with them."""


def installed(requirements: Sequence[str]) -> dict[str, str]:
    """Package -> version, of python and of what ``requirements`` name; an empty string for what is not there."""
    found = {"python": platform.python_version()}
    for text in requirements:
        name = package_name(text)
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def package_name(requirement: str) -> str:
    """``torch`` of ``torch>=2.11``."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return match.group()


def requirements() -> list[str]:
    """What xtrain needs, as its metadata says, or as the pyproject.toml beside it says; python first."""
    source = Path(xtrain.__file__).parent.parent / "pyproject.toml"
    if source.is_file():  # newer than what was written down when it was installed
        project = tomllib.loads(source.read_text("utf-8"))["project"]
        return [f"python{project['requires-python']}", *project["dependencies"]]
    about = metadata.metadata("xtrain")
    needed = [text for text in metadata.requires("xtrain") or [] if "extra ==" not in text]
    return [f"python{about['Requires-Python'] or ''}", *needed]


def check_versions() -> list[Finding]:
    """The packages of :data:`NAMED` one by one, and whatever else is missing or out of its range."""
    needed = requirements()
    found = installed([text for text in needed if package_name(text) != "python"])
    return [finding for text in needed if (finding := _check(text, found)) is not None]


def _check(requirement: str, found: dict[str, str]) -> Finding | None:
    name = package_name(requirement)
    wanted = requirement[len(name) :].partition(";")[0].strip()
    version = found[name]
    if not version:
        return problem(name, f"is not installed; needed: {requirement}", "pip install -r requirements.txt")
    if not _is_within(version, wanted):
        if name == "python":
            return problem(name, f"{version}, needed: {wanted}", f"make a virtual environment with Python {wanted}")
        to_do = f"pip install '{requirement}', or pip install -r requirements.txt for the versions that were tested"
        return problem(name, f"{version}, needed: {wanted}", to_do)
    if name in (*NAMED, "python"):
        return ok(name, f"{version} ({wanted})")
    return None


def _is_within(version: str, wanted: str) -> bool:
    """Whether ``version`` satisfies the range; a build of one's own (2.11.0a0+nv26.1) counts as its number."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        return SpecifierSet(wanted).contains(Version(version).base_version)
    except (InvalidSpecifier, InvalidVersion):
        return True


def check_differences(by_node: dict[str, dict[str, str]]) -> list[Finding]:
    """Packages whose versions are not the same on all nodes, named with the nodes that have each."""
    findings = []
    names = sorted({name for versions in by_node.values() for name in versions})
    for name in names:
        nodes: dict[str, list[str]] = {}
        for node, versions in by_node.items():
            nodes.setdefault(versions.get(name) or "missing", []).append(node)
        if len(nodes) > 1:
            found = "; ".join(f"{version} on {', '.join(on_it)}" for version, on_it in nodes.items())
            to_do = (
                "use one environment for all nodes, on a shared file system or in one container image "
                "(python in the cluster's profile); where several are meant to be equal, install "
                "requirements.txt in each"
            )
            findings.append(problem(f"{name} on all nodes", found, to_do))
    if not findings and by_node:
        same = next(iter(by_node.values()))
        shown = ", ".join(f"{name} {same.get(name)}" for name in ("python", *NAMED[:3]))
        findings.append(
            ok("versions on all nodes", shown)
            if len(by_node) > 1
            else note("versions on all nodes", f"{shown}; one node alone cannot differ")
        )
    return findings
