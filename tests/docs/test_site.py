"""Test that the site is built completely and without a warning."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.pages import DOCS, ROOT
from support.processes import unmeasured

from vsgi_fcgi.cli.commands import SERVE
from vsgi_fcgi.cli.settings.command import key_name, variable_name

# The first test builds the site.
pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site."""
    for module in ("furo", "myst_parser", "sphinx", "sphinx_copybutton"):
        if importlib.util.find_spec(module) is None:
            message = f"{module} is not installed: pip install 'vsgi-fcgi[docs]'"
            if os.environ.get("REQUIRE_FRONT_ENDS") == "1":
                pytest.fail(f"{message}, and REQUIRE_FRONT_ENDS is 1")
            pytest.skip(message)
    folder = tmp_path_factory.mktemp("site")
    argv = [sys.executable, "-P", "-m", "sphinx", "-W", "--keep-going", "-q", "-n", "-b", "html"]
    argv += ["-d", str(folder / "doctrees"), str(DOCS), str(folder / "html")]
    done = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, timeout=150, env=unmeasured()
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_page_is_in_a_table_of_contents(site: Path) -> None:
    """Sphinx itself warns of one that is not; this is that it has built them all."""
    built = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}
    assert {path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md")} <= built


def test_every_setting_is_in_the_reference(site: Path) -> None:
    page = (site / "reference" / "settings.html").read_text()
    for name in SERVE.fields:
        assert f'id="setting-{key_name(name)}"' in page
        assert f"{variable_name(name)}<" in page


def test_the_site_needs_no_network(site: Path) -> None:
    loads = re.compile(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"([^\"]+)\"|<link[^>]*>")
    for path in site.rglob("*.html"):
        for match in loads.finditer(path.read_text()):
            tag = match[0]
            if "canonical" not in tag:
                assert not re.search(r"(?:src|href)=\"(?:https?:)?//", tag), tag


def test_the_sidebar_shows_the_groups_of_guides(site: Path) -> None:
    page = (site / "howto" / "nginx.html").read_text()
    captions = re.findall(r'class="caption-text">([^<]+)<', page)
    assert captions[1:5] == ["Web servers", "Frameworks", "Operate", "Develop"]
    tree = page[page.index("caption-text") :]
    for guide in (DOCS / "howto").glob("*.md"):
        assert f'href="{guide.stem}.html"' in tree or guide.stem in ("index", "nginx"), guide


def test_the_copy_button_leaves_the_prompt_out(site: Path) -> None:
    assert "formatCopyText(text, '$ '," in (site / "_static" / "copybutton.js").read_text()
    assert "_static/copybutton.js" in (site / "howto" / "nginx.html").read_text()
