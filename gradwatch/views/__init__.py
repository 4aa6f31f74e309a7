"""Views of a summary. They compute nothing of their own."""
