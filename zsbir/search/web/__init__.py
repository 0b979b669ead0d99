"""The web page and JSON API of an index."""
