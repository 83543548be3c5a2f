"""One turn of a search: images compared with a map, and merged where they are likely."""
