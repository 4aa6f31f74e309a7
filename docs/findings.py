"""Makes docs/findings.md of the pages in gradwatch/analysis/diagnosis/pages.py."""

from pathlib import Path

from gradwatch.analysis.diagnosis.pages import as_markdown

if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(as_markdown())
