"""The parts of a network, each beside its own frozen spec."""
