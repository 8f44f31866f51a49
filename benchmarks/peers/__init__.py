"""One small file for each peer: how it is set up and what is timed, with every option written out."""
