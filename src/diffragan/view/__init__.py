"""A local web page for stores, results, maps and scans, to look through them."""
