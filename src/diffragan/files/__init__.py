"""One file a format, read and write side by side; nothing is left half-written."""
