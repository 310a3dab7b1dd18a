"""What the verbs of the command say, in English; `chinese_verbs.py` has the same keys. Joined to `english.py` in `words.py`."""

__all__ = ["ENGLISH_VERBS"]

ENGLISH_VERBS: dict[str, dict[str, str]] = {
    "doctor": {
        "check": "check",
        "found": "found",
        "verdict": "verdict",
        "remedy": "remedy",
        "ok": "ok",
        "note": "note",
        "problem": "PROBLEM",
        "python": "Python",
        "torch": "PyTorch",
        "device": "device",
        "threads": "threads",
        "threads_found": "{threads} of {cores} cores this process may use",
        "matmul": "matrix-product peak",
        "bfloat16": "bfloat16 products",
        "bfloat16_found": "{ratio} times the speed of float32",
        "reading": "reading memory",
        "memory": "memory",
        "disk": "disk, this folder",
        "cache": "disk, cache",
        "free": "{size} free at {place}",
        "need": "at least {size} are needed",
        "writable": "run from a folder that you may write",
        "extra_data": "extra `data`",
        "extra_serve": "extra `serve`",
        "extra_eval": "extra `eval`",
        "missing": "{name} is not installed",
        "proving": "Proving on a tiny model",
        "resume": "killed and resumed = never interrupted",
        "same_bits": "the same weights, bit for bit",
        "other_bits": "OTHER WEIGHTS",
        "accumulation": "micro-batches = the whole batch",
        "difference": "largest difference {error}",
        "report_it": "please report this with `touchstone doctor --json`",
        "all_well": "This machine is ready.",
        "problems": "Problems found: {n}. The remedies stand beside them.",
    },
    "generate": {
        "told": "{n} tokens · ended by {ended} · seed {seed} · mean probability {probability}",
        "stop": "an end token or stop text",
        "length": "the length asked for",
        "cancelled": "cancelling",
        "error": "an error",
    },
    "complete": {
        "first": "next token",
        "whole": "all of it",
        "text": "continuation",
        "end": "⟨end of text⟩",
        "left_out": "The oldest {n} tokens do not fit the context and were left out.",
    },
    "convert": {
        "working": "Writing and checking",
        "written": "{source} is now {folder}: a model of type {kind}, {size} of weights.",
        "equal": "Checked: opened again, it gives the source's logits bit for bit ({n} prompts, {positions} tokens).",
        "close": (
            "Checked: opened again, its logits differ from the source's by up to {difference} ({n} prompts, {positions} tokens); KL "
            "divergence {mean_kl} nats a token on average, {kl} at most."
        ),
        "opens_in": "Opens in `transformers`, as {name}, and in Touchstone.",
        "ours_only": "Opens in Touchstone only: `transformers` has no class that computes this function.",
        "ignored": "not carried over",
        "reason": "why",
    },
    "inspect": {
        "fact": "what",
        "model": "{folder}: a model of type {kind}",
        "parameters": "parameters",
        "context": "context, tokens",
        "flops_per_token": "floating-point operations a token",
        "vocabulary": "rows of the vocabulary",
        "order": "longest n-gram",
        "ngrams": "distinct n-grams",
        "bytes_in_memory": "bytes in memory",
        "labels": "labels",
        "pooling": "vectors of texts",
        "tokenizer": "tokens of the tokenizer",
        "spare_rows": "spare rows, which no token uses",
        "tokenizer_hash": "sha256 of the tokenizer",
        "ignored": "left out",
        "reason": "reason",
        "score": "score",
        "value": "value",
        "measured_on": "measured on",
        "calibration": "Calibration of {target} by {method} ({settings}), fitted on {n} items, {date}.",
        "lineage": "Trained on text {data}, tokenizer {tokenizer}.",
        "run": "{folder}: a training at step {step}, without a model yet",
        "resume": "The command that goes on with it:",
        "reading": "Reading",
        "data": "{path}: text",
        "files": "files",
        "documents": "documents",
        "bytes": "bytes of text",
        "characters": "characters",
        "formats": "documents by format",
        "bom": "files with a byte order mark (removed)",
        "crlf": "files with CRLF line ends (made LF)",
        "empty": "rows without text",
        "skipped": "not read",
    },
    "train": {
        "already": "{folder} holds this training, finished. Nothing to do; choose another --out to train anew.",
        "interrupted": "Stopped at step {step} of {n_steps}, and saved. The same command goes on from there.",
        "shortened": "Steps are slower than at the start: the run ends after {n_steps} steps in place of {n_planned}, to end in its time.",
        "scored": "Test text: {value} bits per byte over {n} documents, perplexity {perplexity} a token.",
        "baseline": "Beside it, {name} without any training text: {value}.",
        "scoring": "Scoring the test text",
        "next": "To try next:",
        "report": "The report: {path}",
    },
    "plan": {
        "what": "plan",
        "value": "value",
        "folder": "run folder",
        "resumes": "{folder}, which holds a part of it already",
        "data": "text",
        "parameters": "parameters",
        "memory": "memory, about",
        "time": "time, about",
        "tokens": "tokens to train on",
        "by_time": "as many as fit the time",
        "nothing": "Dry run: nothing was written.",
    },
    "prepare": {
        "working": "Reading, splitting and encoding the text",
        "text": (
            "Text: {documents} documents, {size}; {copies} near-copies kept on one side. "
            "To learn from {train}, to choose by {valid}, to judge by {test}."
        ),
        "tokens": "Vocabulary: {vocabulary} tokens, {per_token} bytes a token.",
        "skipped": "{n} files or parts were not read; the first: {first}. `touchstone inspect` lists them.",
        "done": "Prepared in {folder}; a training on the same text and settings finds it there.",
        "plan": "{n} files, {size}, would be read ({skipped} others not) and prepared in {cache}.",
    },
    "lesson": {
        "preparing": "Reading and dividing the rows",
        "rows": ("Rows: {n}; {copies} near-copies kept on one side. To learn from {train}, to choose by {valid}, to judge by {test}."),
        "left_out": "{n} rows to learn from are near-copies of rows held out; they are left out.",
        "labels": "{n} labels: {names}.",
        "noted": "{n} times: {what}.",
        "judging": "Answering the test side",
        "figure": "Test side: {name} {value} over {n}; always the commonest answer: {commonest}.",
        "accuracy": "accuracy",
        "nll": "nats an answer",
        "macro_f1": "macro-F1",
        "span_f1": "F1 of whole spans",
        "exact_match": "exact match",
        "answer_f1": "F1 of the answers' words",
        "subtitle": "What was trained, on what, and how well it answers what it never saw.",
        "beside": "beside {value} of always giving the commonest answer",
        "score_text": (
            "Judged on {n} held-out examples, none of which is a near-copy of one to learn from. "
            "The interval of the first figure: {method}."
        ),
        "valid_loss": "loss, nats an answer",
        "source": "what it read",
        "written": "what it wrote",
        "expected": "what was expected",
        "rows_title": "The examples",
        "examples": "examples",
    },
    "recipes": {
        "name": "recipe",
        "parameters": "parameters",
        "time": "time",
        "memory": "memory",
        "about": "what it is",
        "note": "Times are for two cores of a server CPU. `--minutes N` sizes any of them, `--dry-run` shows what one takes here.",
    },
    "report": {
        "chosen": "What of it was chosen by measuring, with the reasons (`chosen` in environment.json):",
        "train_title": "Training of {name}",
        "train_subtitle": "What was trained, on what, and how well it predicts text it never saw.",
        "bits_per_byte": "bits per byte",
        "perplexity": "perplexity",
        "per_token": "a token",
        "parameters": "parameters",
        "trained_on": "trained on",
        "tokens_in": "tokens in {time}",
        "beside": "beside {others} of compressors that were given nothing",
        "score_text": (
            "Scored on {n} held-out documents ({bytes} bytes), none of which is a near-copy of a training text, by {method}. "
            "The interval resamples files."
        ),
        "curve": "How the loss fell",
        "curve_caption": "Training loss of each of {n} steps, its running mean, and the loss on validation text.",
        "skipped": "{n} steps had a loss or gradient that could not be used; they were skipped: {steps}.",
        "validations": "Every validation",
        "step": "step",
        "valid_loss": "loss, nats a token",
        "samples": "What it writes",
        "samples_text": "Beginnings of held-out texts, continued by the model.",
        "making": "What it was made from",
        "model": "The model",
        "text": "The text",
        "configuration": "The whole configuration",
        "documents": "documents",
        "bytes": "bytes",
        "tokens": "tokens",
        "train": "to learn from",
        "valid": "to choose by",
        "test": "to judge by",
        "near_copies": "{n} documents are near-copies of others and stand on the same side. Hash of the text: {hash}…",
        "next": "What to try next",
    },
    "method": {
        "carried": "state carried through each file",
        "windows": "overlapping windows, stride {stride} of context {window}",
    },
    "verdict": {
        "better": "better",
        "worse": "worse",
        "tie": "a tie",
        "better_sentence": "{a} beats {b}: {difference} bits per byte.",
        "worse_sentence": "{a} is behind {b}: {difference} bits per byte.",
        "tie_sentence": "{a} and {b} are a tie: {difference} bits per byte, an interval that covers 0.",
    },
    "evaluate": {
        "scoring": "Scoring",
        "on": "On {data}: {n} documents, {bytes} bytes; {method}.",
        "who": "who predicts",
        "bits_per_byte": "bits per byte",
        "difference": "the model minus this",
        "verdict": "the model is",
        "model": "the model",
        "compressor": "{name} {setting}, given nothing else",
        "perplexity": "Perplexity {value} a token (comparable only between models of one tokenizer).",
        "ece": (
            "Calibration of the likeliest next token: ECE {value}, interval {interval}, over {n} tokens; a perfectly calibrated "
            "model would show up to {floor}."
        ),
    },
    "quickstart": {
        "fact_bits": "bits per byte {interval}",
        "compressor_facts": "level {level}; {given}",
        "ece_caption": "{bins} equal-width bins (low, high], {n} tokens",
        "title": "Touchstone quickstart: from plain text to a language model whose every claim is measured",
        "promise": (
            "This takes about {total}: {train} to train the decoder, {lstm} for the LSTM beside it, the rest to read, score and report."
        ),
        "safe": "It may be stopped at any time with Ctrl-C: the same command goes on from there.",
        "already": "{folder} holds this quickstart, finished; here are its results. Choose another --out to run it anew.",
        "stage": "[{number}/{n}] {name}",
        "stage_machine": "Measuring this machine",
        "stage_text": "Reading the text",
        "stage_decoder": "Training the decoder",
        "stage_lstm": "Training the LSTM baseline",
        "stage_measuring": "Fitting the other baselines and measuring everything on held-out files",
        "stage_report": "Writing the model and the report",
        "machine": "Matrix products {gflops} GFLOP/s, reading memory {gbytes} GB/s ({dtype}, {threads} threads).",
        "training": "{parameters} parameters, about {time}.",
        "was_trained": "Trained already, in {folder}.",
        "ngram": "Kneser-Ney 5-gram: {n} n-grams, fitted in {time}",
        "compressing": "Compressing the test files, with and without the training text",
        "scoring": "Scoring the test files",
        "results": "Bits per byte on {n} held-out files ({bytes} bytes, no near-copies in the training text; {method})",
        "who": "who predicts",
        "bits_per_byte": "bits per byte",
        "what": "what it is",
        "decoder_name": "this decoder",
        "mixture_name": "this decoder mixed with the 5-gram",
        "ngram_name": "Kneser-Ney 5-gram",
        "lstm_name": "LSTM",
        "compressor_given": "{name}, given the training text",
        "compressor_alone": "{name}, given nothing",
        "calibration_told": (
            "Next-token confidence: ECE {before} as trained, {after} at the fitted temperature {temperature}; a perfectly "
            "calibrated model would show up to {floor}."
        ),
        "calibration_same": "The intervals overlap: the temperature makes no measurable difference.",
        "calibration_better": "The intervals do not overlap: the temperature makes it measurably better.",
        "calibration_worse": "The intervals do not overlap: the temperature makes it measurably worse here.",
        "report": "The report: {path}",
        "model": "The model: {path}; `transformers` opens it too.",
        "next": "To try next:",
        "page_title": "Touchstone quickstart",
        "page_subtitle": "A small decoder trained in minutes, measured on files it never saw.",
        "fact_decoder": "decoder",
        "fact_mixture": "decoder with 5-gram",
        "fact_peak": "of the machine's peak",
        "fact_peak_under": "measured: {gflops} GFLOP/s",
        "comparison": "How well it predicts",
        "comparison_text": (
            "Bits needed for each byte of {n} held-out files ({bytes} bytes). All networks are scored by {method}; a recurrent "
            "network and the 5-gram carry their state through each file. Lower is better."
        ),
        "left_out": "{n} more held-out files were left out to keep the scoring short; the choice depends on a hash of their names alone.",
        "bars_caption": "Bits per byte of each model and compressor; the lines are 95 % intervals, resampling files.",
        "verdicts": "What may be concluded",
        "mixture_text": "In the mixture the decoder has the weight {weight}, fitted on validation files.",
        "missing": "{name} was not measured here: {reason}.",
        "calibration": "How far its confidence can be believed",
        "before": "as trained",
        "after": "at the fitted temperature",
        "when": "when",
        "ece": "ECE",
        "interval": "95 % interval by file",
        "floor": "a perfect model, up to",
        "reliability_caption": (
            "Of the tokens that the decoder gave a certain confidence, how many came true. On the diagonal, confidence means what it says."
        ),
        "completions": "What it writes",
        "completions_text": (
            "Three openings continued by the decoder. A model of this size, trained for minutes, writes text that looks like "
            "Python; it does not write working programs."
        ),
        "held_out": "A held-out file through its eyes",
        "held_out_text": "The beginning of a file of middling difficulty, each token coloured by the probability that the decoder gave it.",
        "meaning": "What the figures mean",
        "meaning_bits": (
            "Bits per byte: how many bits an ideal coder would need for each byte of the text with this model's "
            "predictions. 8 is knowing nothing. It does not depend on the tokenizer, so any two models can be compared."
        ),
        "meaning_interval": (
            "Intervals: had other files been held out, the figure would have been another. The interval comes from drawing "
            "the test files anew, thousands of times. Differences are paired: both models on the same draw."
        ),
        "meaning_split": (
            "Held out: near-copies of a file stay on its side, so that no model is rewarded for having seen the text before."
        ),
        "meaning_window": (
            "Windows: the decoder sees a limited context, so the text is scored in overlapping windows, each token with at "
            "least half a context before it where the file has it."
        ),
        "meaning_mixture": (
            "The mixture: a network generalises, an n-gram remembers phrases exactly. Where their mixture is far below "
            "both, much of the text is repetition that the network had no time to learn."
        ),
        "meaning_compressors": (
            "Compressors: given the training text, they measure how much of the test files is copied from it; given "
            "nothing, how much each file repeats itself."
        ),
        "meaning_ece": (
            "ECE: the mean gap between confidence and accuracy over 15 bins. Even a perfectly calibrated model shows more "
            "than zero on finite text; only what stands clearly above that is miscalibration."
        ),
        "next_text": (
            "More minutes, more text and a larger model lower the bits per byte, in that order of cost. The LSTM's run folder "
            "is `baselines/lstm` beside the model."
        ),
        "net_facts": "{parameters} parameters; trained on {tokens} tokens, {flops} floating-point operations, {time}",
        "given": "having read {size} of training text",
        "given_nothing": "each file on its own",
        "mixture_facts": "both models' probabilities, weighted",
    },
}
