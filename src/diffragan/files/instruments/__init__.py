"""Formats of microscopes and their detectors, one file each, read lazily.

A reader returns arrays by name as `files.formats.read_arrays` has them.
"""
