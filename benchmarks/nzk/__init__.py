"""The seven experiments of arXiv 2603.21169 with that paper's settings: from a name to a record."""
