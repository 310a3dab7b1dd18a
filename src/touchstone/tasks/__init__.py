"""Tasks that a model is asked to do, each with its measured confidence."""
