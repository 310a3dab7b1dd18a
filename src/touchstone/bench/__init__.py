"""Speed: the machine's limits, and our own speed beside that of others."""
