"""The page for the browser: its files, and the data that it asks for at any zoom."""
