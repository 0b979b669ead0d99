"""The datasets that `zsbir.DATASETS` builds by name, and one for images that come from code."""
