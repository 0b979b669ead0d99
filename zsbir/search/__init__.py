"""Index and search: find photos in folders of one's own."""
