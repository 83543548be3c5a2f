"""Steps down a slope."""
