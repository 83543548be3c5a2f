"""That what lies in a file is what was written, by one run."""
