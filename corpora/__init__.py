"""Text and labels in, `datasets.Dataset` out."""
