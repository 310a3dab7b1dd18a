"""What a user reads, in English: phrases by group and name; `{name}` marks what is filled in. `chinese.py` has the same keys."""

__all__ = ["ENGLISH"]

ENGLISH: dict[str, dict[str, str]] = {
    "note": {
        "warning": "warning: {text}",
        "error": "error: {text}",
        "reading": "Reading from the terminal; end with Ctrl-D.",
    },
    "time": {
        "seconds": "{s} s",
        "minutes": "{min} min {s} s",
        "hours": "{h} h {min} min",
        "days": "{d} d {h} h",
    },
    "progress": {
        "done": "{label}: done in {time}",
        "share": "{label}: {percent} %",
        "count": "{label}: {n}",
    },
    "training": {
        "title": "Training",
        "step": "step {step} of {n_steps}",
        "step_only": "step {step}",
        "loss": "loss {value}",
        "bits_per_byte": "{value} bits per byte",
        "valid_loss": "validation loss {value}",
        "valid_bits_per_byte": "validation {value} bits per byte",
        "tokens_per_s": "{value} tokens/s",
        "peak_fraction": "{value} % of matmul peak",
        "learning_rate": "learning rate {value}",
        "gradient_norm": "gradient norm {value}",
        "skipped": "{value} steps skipped",
        "left": "{time} left",
    },
    "plot": {
        "step": "step",
        "loss": "loss (nats per token)",
        "bits_per_byte": "bits per byte",
        "training": "training",
        "validation": "validation",
        "confidence": "mean confidence",
        "accuracy": "share correct",
        "perfect": "perfectly calibrated",
        "share": "share of predictions",
        "coverage": "share answered",
        "risk": "share wrong of those",
        "promised": "{percent} % wrong",
        "lower_better": "lower is better; lines show {level} % intervals",
    },
    "page": {
        "contents": "Contents",
        "tokens_legend": "Each token is coloured by the probability the model gave it",
        "tokens_note": "Point at a token to read its probability; text without colour was given.",
        "made_by": "Made by Touchstone {version} on {date}. This page is one file; it loads nothing and runs nothing.",
    },
}
