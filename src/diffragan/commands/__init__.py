"""One module a command: options in, one library call, words out."""
