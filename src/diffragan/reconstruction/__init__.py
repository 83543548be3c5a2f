"""Many views of one molecule into a map."""
