"""Whole journeys, each a verb of the command: quickstart, train, evaluate and the smaller ones."""
