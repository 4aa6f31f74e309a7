"""What the page in a browser is shown of a run, at the zoom that it asks for; the page itself is in dashboards/."""
