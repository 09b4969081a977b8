"""Test the metadata of the package for package indexes and pip."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import vsgi_fcgi

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["dynamic"] == ["readme", "version"]
    assert metadata("vsgi-fcgi")["Version"] == vsgi_fcgi.__version__


def test_the_readme_of_the_index_page_has_absolute_links_to_files_that_exist() -> None:
    files = f"{PROJECT['urls']['Source']}/blob/main/"
    links = re.findall(r"\]\(([^)]+)\)", str(metadata("vsgi-fcgi").json["description"]))
    assert len(links) > 10
    assert [link for link in links if not link.startswith("https://")] == []
    ours = [link.removeprefix(files) for link in links if link.startswith(files)]
    assert len(ours) > 10
    assert [path for path in ours if not (ROOT / path).exists()] == []


def test_the_addresses_have_one_home() -> None:
    source = PROJECT["urls"]["Source"]
    assert [url for url in PROJECT["urls"].values() if not url.startswith(source)] == []


def test_every_release_of_python_that_is_claimed_is_one_that_ci_runs() -> None:
    claimed = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    # The whole suite runs on Debian 12 and 13, whose Pythons are 3.11 and 3.13.
    ran = {"3.11", "3.13", *re.findall(r"\b3\.\d+\b", (ROOT / ".ci" / "run").read_text())}
    assert set(claimed) == ran


def test_dev_installs_all_extras_together() -> None:
    """CI and CONTRIBUTING.md install `dev`, so a conflict between two extras fails there.

    `fuzz` is left out: only those who fuzz for longer than the tests need atheris.
    """
    extras = PROJECT["optional-dependencies"]

    def included(extra: str) -> set[str]:
        found = {extra}
        for requirement in extras[extra]:
            if requirement.startswith("vsgi-fcgi["):
                for name in requirement.split("[")[1].rstrip("]").split(","):
                    found |= included(name)
        return found

    assert included("dev") == set(extras) - {"fuzz"}
