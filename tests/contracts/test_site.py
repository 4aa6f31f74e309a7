"""The documentation as a site: it builds without a warning, links are whole, and nothing is fetched when it is read."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gradwatch

ROOT = Path(__file__).parents[2]


def load_hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Page:
    class file:
        src_uri = "agents.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for name in ("mkdocs", "material", "mkdocstrings_handlers"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install gradwatch[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there_and_in_the_navigation(site):
    for page in sorted((ROOT / "docs").glob("*.md")):
        made = site / "index.html" if page.name == "README.md" else site / page.stem / "index.html"
        assert made.is_file(), page.name
    assert (site / "search" / "search_index.json").is_file()


def test_the_api_has_every_public_name(site):
    text = (site / "api" / "index.html").read_text()
    for name in (*gradwatch.__all__, *gradwatch.clip.__all__):
        if name != "clip":
            assert re.search(rf'id="gradwatch\.[\w.]*\b{name}"', text), name


def test_nothing_is_fetched_when_a_page_is_read(site):
    loads = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=["']?(?:https?:)?//[^\s"'>]+[^>]*>""")
    for page in site.rglob("*.html"):
        fetched = [tag for tag in loads.findall(page.read_text()) if 'rel="canonical"' not in tag]
        assert fetched == [], page


def test_a_link_out_of_the_docs_leads_to_the_repository():
    turned = load_hooks().on_page_markdown("[a](../README.md#x) [b](schemas/report.schema.json) [c](import.md)", Page)
    base = load_hooks().REPOSITORY
    assert turned == f"[a]({base}/README.md#x) [b]({base}/docs/schemas/report.schema.json) [c](import.md)"


def test_a_link_to_a_file_that_is_missing_is_a_warning(caplog):
    text = "[a](../no-such-file.txt) [b](../../outside.txt)"
    assert load_hooks().on_page_markdown(text, Page) == text
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
