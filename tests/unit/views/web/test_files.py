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
        text = data.decode().replace('xmlns="http://www.w3.org/2000/svg"', "")  # the name of SVG, which is not loaded
        outside = [word for word in ("http://", "https://", "//cdn") if word in text]
        if name.startswith("vendor/"):
            continue  # addresses in comments only
        assert outside == [], name


def bundled(monkeypatch, sources, entry="main.js"):
    """The script that modules with these sources are joined to."""
    monkeypatch.setattr("gradwatch.views.web.files.files", lambda: {k: v.encode() for k, v in sources.items()})
    return joined(entry)


def test_a_module_comes_after_those_that_it_imports_and_only_once(monkeypatch):
    script = bundled(
        monkeypatch,
        {
            "main.js": 'import { a as first } from "./lib/a.js";\nimport b from "./b.js";\nfirst(b);\n',
            "b.js": 'import { a } from "./lib/a.js";\nexport default function b() { return a; }\n',
            "lib/a.js": 'import { deep } from "../deep.js";\nexport const a = deep;\n',
            "deep.js": "export function deep() {}\n",
        },
    )
    order = [script.index(text) for text in ("function deep", "const a = deep", "function b()", "first(b)")]
    assert order == sorted(order)
    assert script.count("function deep") == 1
    assert "const { a: first } = module" in script
    assert "const { default: b } = module" in script
    assert "import" not in script
    assert "export" not in script


def test_exports_become_the_properties_of_a_constant(monkeypatch):
    script = bundled(
        monkeypatch,
        {"main.js": "export class A {}\nexport const b = 1;\nexport async function c() {}\nexport default class D {}"},
    )
    assert "return { A: A, b: b, c: c, default: D };" in script


def test_a_bundle_has_no_comment_of_ours(monkeypatch):
    script = bundled(monkeypatch, {"main.js": "// a line\n/** A block. */\nconst a = 1; // behind code\n"})
    assert "a line" not in script
    assert "A block" not in script
    assert "const a = 1;" in script
