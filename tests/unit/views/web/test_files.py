"""The files of the page and the script that they are joined to."""

from gradwatch.views.web.files import files, joined


def test_the_page_joins_to_one_script_without_imports():
    script = joined()
    lines = script.splitlines()
    assert not [line for line in lines if line.startswith(("import ", "export "))]
    assert "Leon Sorokin" in script, "the notice of uPlot's licence stays with it"
    assert "</script" not in script.lower()
    assert "import.meta" not in script


def test_the_files_of_the_page_refer_to_nothing_outside():
    for name, data in files().items():
        text = data.decode()
        outside = [word for word in ("http://", "https://", "//cdn") if word in text]
        if name.startswith("vendor/"):
            continue  # addresses in comments only
        assert outside == [], name
