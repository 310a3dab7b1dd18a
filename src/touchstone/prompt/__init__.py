"""What is asked of a model, beyond its text: the form that an answer must have."""
