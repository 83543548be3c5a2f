"""Maps by RELION: phased results to its files, its programs driven, its maps judged."""
