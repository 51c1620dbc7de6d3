"""The compared methods, a file each."""
