"""What the verb `assay` says, in English; `chinese_assay.py` has the same keys. Joined to the other verbs in `english_verbs.py`."""

__all__ = ["ENGLISH_ASSAY"]

ENGLISH_ASSAY: dict[str, str] = {
    "opening": "Opening the model and reading the data",
    "title": "Assay of {model}",
    "subtitle": "What this model can be trusted with, by what was measured.",
    "verdict": "Verdict",
    "verdict_of": "What {model} can be trusted with",
    "use_may": "You can rely on this",
    "use_not": "You cannot rely on this",
    "use_open": "Open, or to be mended first",
    "left_out": "Not measured",
    "left_out_part": "{part}: {reason}",
    "failed": "{part}: the measurement ended with an error, which stands in `assay.json`.",
    "written": "Report: {report} (figures: {json})",
    "takes": "Reading alone takes about {time} on this machine; compressors and the intervals come on top.",
    "part": "part",
    "amount": "how much",
    "part_identity": "What the model is",
    "part_language": "Predicting text",
    "part_answers": "Closed answers",
    "part_prompts": "Ways of asking",
    "part_classes": "Labels",
    "part_speed": "Speed and memory",
    "part_contamination": "Texts seen in training",
    "n_documents": "{n} documents",
    "n_bytes": "{n} bytes",
    "n_questions": "{n} questions",
    "n_ways": "{n} ways of asking each",
    "n_rows": "{n} rows",
    "n_tokens": "{n} tokens",
    "joined": "{so_far}, {more}",
    "why_no_rolling": "the model predicts no whole text.",
    "why_no_tokenizer": "the model has no tokenizer, so it reads no text.",
    "why_no_prefix": "the tokenizer has no token that begins or ends a text, so the first token cannot be scored.",
    "why_no_run": "no run stands behind this model, so it has no held-out text; give text with `--data PATH`.",
    "why_run_unreadable": "the settings of the run beside the model cannot be read.",
    "why_text_changed": "the run's text is gone, or is not what it was; give text with `--data PATH`.",
    "why_no_held_out": "the run held no text out; give text with `--data PATH`.",
    "why_training_no_run": (
        "no run stands behind this model, so its training text is not known; assay it in its run folder, whose `config.yaml` names that"
        " text."
    ),
    "why_training_run_unreadable": "the `config.yaml` of the run beside the model cannot be read, so its training text is not known.",
    "why_training_text_changed": "the training text is gone, or is not what it was; put it back where `config.yaml` of the run names it.",
    "why_training_no_tokenizer": "the model has no tokenizer, so its training text cannot be told.",
    "why_no_loglikelihood": "the model gives no likelihood of an answer.",
    "why_no_classify": "the model has no classification head.",
    "why_labels_together": "its labels do not exclude each other, so one answer a row is not defined.",
    "why_no_rows": "there are no labelled rows; give some with `--data PATH`.",
    "why_many_labels": "the rows have too many labels to ask for each in every way.",
    "why_one_label": "all rows have one and the same label.",
    "why_no_reading": "the model reads no text in a way that is timed.",
    "why_no_texts": "there is no text whose words could be looked for.",
    "name_own": "held-out text of its own run",
    "name_answers": "closed answers",
    "name_classes": "labels",
    "name_next_token": "the next token",
    "name_probes_en": "our English probes",
    "name_probes_zh": "our Chinese probes",
    "kind_agreement": "agreement",
    "kind_arithmetic": "arithmetic",
    "kind_brackets": "brackets",
    "kind_copying": "copying",
    "kind_label": "labels of short texts",
    "in_en": "English",
    "in_zh": "Chinese",
    "of_kind": "{kind} ({language})",
    "says_language_better": (
        "Text like {about}: {value} bits per byte, better than the best compressor ({name}, {best}) beyond chance, over {n} documents."
    ),
    "says_language_tie": "Text like {about}: {value} bits per byte, a tie with the best compressor ({name}, {best}) over {n} documents.",
    "says_language_worse": (
        "Text like {about}: {value} bits per byte, worse than a compressor ({name}, {best}) over {n} documents; it has learned"
        " little of it."
    ),
    "says_language_few": "Text like {about}: {n} documents are too few to say; {value} bits per byte, {name} {best}.",
    "says_answers_above": "Answers beyond guessing: {kinds}.",
    "says_answers_guessing": "No better than guessing, as far as can be told: {kinds}.",
    "says_answers_few": "Too few questions to say: {kinds}.",
    "says_classes_better": (
        "Its labels: {value} right [{low}, {high}] of {n} rows, beyond the {share} that always giving the commonest label gets right."
    ),
    "says_classes_tie": (
        "Its labels: {value} right [{low}, {high}] of {n} rows, no better for certain than always giving the commonest label ({share})."
    ),
    "says_classes_worse": (
        "Its labels: {value} right [{low}, {high}] of {n} rows, worse than always giving the commonest label"
        " ({share}); are they the right"
        " labels in the right order?"
    ),
    "says_classes_few": "Its labels: {n} rows are too few to say; {value} right [{low}, {high}], the commonest label {share}.",
    "says_confidence_true": (
        "Its confidence in {about} is true as it stands: off by {before} on average, which is what a true one shows too (up to {floor},"
        " {n} answers)."
    ),
    "says_confidence_near": (
        "Its confidence in {about} is off by {before} on average: more than chance (up to {floor}, {n} answers), but little."
    ),
    "says_confidence_fixable": (
        "Its confidence in {about} is off by {before} on average (a true one: up to {floor}, {n} answers). Calibrate it first: {after} is"
        " left."
    ),
    "says_confidence_off": (
        "Its confidence in {about} is not true: off by {before} on average (a true one: up to {floor}, {n} answers), and still by {after}"
        " after calibrating."
    ),
    "says_confidence_few": (
        "Its confidence in {about}: {n} answers are too few to say; off by {before}, where a true one is up to {floor}."
    ),
    "says_confidence_unfitted": (
        "Its confidence in {about} is not true: off by {before} on average (a true one: up to {floor}, {n} answers), and there is too"
        " little to calibrate by."
    ),
    "says_confidence_stuck": (
        "Its confidence in {about} is not true: off by {before} on average (a true one: up to {floor}, {n} answers), and of the"
        " calibrations tried none is better."
    ),
    "says_ranking_knows": "It is surer of right {about} than of wrong ones (AUROC {value}): the least sure ones can be set aside.",
    "says_ranking_blind": "Its confidence in {about} does not tell right from wrong (AUROC {value}).",
    "says_promise_held": (
        "Left to answer alone where it is sure: of {about} it gives {coverage}, at most {risk} of them wrong with"
        " {sure} confidence; on the"
        " other half {found} were."
    ),
    "says_promise_chance": (
        "Left to answer alone where it is sure ({about}): {risk} wrong at most were promised with {sure} confidence; on the other half"
        " {found} were, at {coverage} answered, which chance may explain. More answers would tell."
    ),
    "says_promise_broken": (
        "Left to answer alone where it is sure ({about}): {risk} wrong at most were promised with {sure} confidence,"
        " but on the other half"
        " {found} were, at {coverage} answered."
    ),
    "says_promise_unused": (
        "Left to answer alone where it is sure ({about}): {risk} wrong at most can be promised with {sure} confidence, but it was so sure"
        " of no answer of the other half."
    ),
    "says_promise_impossible": (
        "Left to answer alone ({about}): however sure it is, {risk} wrong at most cannot be promised with {sure} confidence."
    ),
    "says_promise_few": "Left to answer alone ({about}): {n} answers are too few to promise anything.",
    "says_prompts_depends": (
        "Prompts you have not tried: its accuracy hangs on the wording, {low} to {high} over {ways} ways of asking (median {median}, {n}"
        " questions)."
    ),
    "says_prompts_steady": (
        "Wording: {low} to {high} right over {ways} ways of asking (median {median}), no more apart than chance allows at {n} questions."
    ),
    "says_prompts_few": "Wording: {n} questions are too few to say; {low} to {high} right over {ways} ways of asking, median {median}.",
    "says_contamination_clean": (
        "Figures on {about} are of new text: of {n} texts, {judged} of them long enough to tell, {share} share {words} words in a row with"
        " the training text or stand in it whole."
    ),
    "says_contamination_seen": (
        "Figures on {about} as figures of new text: {share} of {n} texts share {words} words in a row with the training text or, where"
        " they are short, stand in it whole."
    ),
    "says_contamination_short": (
        "Figures on {about}: whether its texts were seen in training is not known, as {judged} of {n} can be told; {share} stand in the"
        " training text."
    ),
    "says_contamination_unknown": (
        "Whether the texts it was measured on were seen in training is not known; if they were, the figures flatter it."
    ),
    "parameters": "parameters",
    "bits_per_byte": "bits per byte",
    "best_other": "best compressor, {name}: {value}",
    "promised": "answered alone",
    "promised_under": "with at most {risk} % wrong; {about}",
    "accuracy": "right",
    "majority_under": "always the commonest label: {value} %",
    "reading": "reading",
    "tokens_per_s": "tokens/s on this machine",
    "what": "what",
    "value": "value",
    "family": "family",
    "can": "what it can do",
    "n_grams": "distinct n-grams",
    "context": "context, tokens",
    "vocabulary": "rows of the vocabulary",
    "tokenizer": "tokens of the tokenizer",
    "labels": "labels",
    "numeric_scheme": "number type, device",
    "threads": "threads",
    "weights_hash": "weights, sha256 …",
    "data_hash": "training text, sha256 …",
    "parent": "weights it began from, sha256 …",
    "text": "text",
    "bytes_per_token": "bytes a token",
    "tokens": "tokens",
    "language_text": (
        "How many bits the model needs for each byte of text it is shown: {method}. Beside it stand general-purpose"
        " compressors, which have"
        " learned nothing: a language model that does not beat them has learned little of such text."
        " They read the parts of one text in turn, and where"
        " the training text is known, they stand there a second time, given as much of it as they can use here."
    ),
    "this_model": "this model",
    "given": "{name}, given training text",
    "domain_caption": "Bits per byte over {n} documents, {bytes} bytes; {left_out} more documents were left out.",
    "who": "who",
    "difference": "the model minus it",
    "compared": "the model is",
    "unit_file": "Intervals resample {n} files; parts of one file are resampled together.",
    "unit_row": "Intervals resample {n} documents.",
    "unit_block": (
        "All of it is one text, so intervals resample its {n} blocks: as if neighbouring blocks were independent, which they are not."
    ),
    "next_token": "Is the probability of the next token true?",
    "temperature": "The temperature that fits one half of the documents best is {value}; what it changes was measured on the other half.",
    "missing_compressor": "The compressor {name} is not installed here, so it is not compared.",
    "answers_text": (
        "{n} small questions with a few answers each, chosen by likelihood. Chance is what guessing scores; a kind counts as beyond"
        " guessing where its whole interval, widened for the number of kinds, lies above that."
    ),
    "kind": "kind",
    "language": "language",
    "chance": "chance",
    "n": "answers",
    "confidence": "Does it know when it is right?",
    "nothing_better": "Tried on {n} answers of one half, no calibration is better than the model's own word; measured on the other half.",
    "fitted": "Calibrated on {n} answers of one half by {method}; measured on the other half.",
    "ranking": (
        "Ranking of all answers by confidence: AURC {aurc} (the mean share wrong over all shares answered, 0 is best), AUROC {auroc} (0.5"
        " is no better than a coin)."
    ),
    "risk_coverage_caption": (
        "The share wrong among the answers given, when only the surest are: a useful confidence makes the line rise to the right."
    ),
    "promise": "Answering only where it is sure",
    "promise_caption": (
        "Promise: at most {risk} % of what is answered is wrong, with {sure} % confidence; made on one half, tried on the other."
    ),
    "threshold": "answers from a confidence of",
    "coverage_fitted": "answered, half it was made on",
    "coverage": "answered, other half",
    "risk": "wrong of those, other half",
    "outcome": "outcome",
    "outcome_held": "held",
    "outcome_chance": "more wrong than promised, which chance may explain",
    "outcome_broken": "broken",
    "outcome_unused": "nothing was sure enough",
    "outcome_impossible": "nothing can be promised",
    "reliability_caption": "Share correct against confidence: on the dashed line the confidence is true.",
    "when": "confidence",
    "before": "as the model says",
    "after": "calibrated",
    "ece": "calibration error (ECE)",
    "floor": "noise floor",
    "not_fitted": "There are too few answers to calibrate on one half and measure on the other.",
    "prompts_text": (
        "The same {n} questions ({on}), asked in {ways} ways: other templates, other words for the labels, examples in other orders."
    ),
    "on_rows": "of the rows given",
    "on_probes": "of our label probes",
    "changed": "what is changed",
    "least": "least",
    "median": "median",
    "most": "most",
    "axis_all": "anything",
    "axis_template": "the template",
    "axis_words": "the label words",
    "axis_order": "the order of four examples",
    "way_plain": "the plain way ({n})",
    "way_template": "template {n}",
    "way_words": "label words {n}",
    "way_order": "order of examples {n}",
    "ways_note": "share right; higher is better; guessing scores {chance} %",
    "ways_caption": "Share right by way of asking, with its exact interval.",
    "same_text": (
        "{same} % of the questions come out the same in all ways. That the best and the worst way are equally good has a p-value of {p}"
        " (McNemar, times the number of pairs)."
    ),
    "n_refused": "{n} questions were not asked: the model's tokenizer spells their answers alike, or they do not fit.",
    "n_copies": "{n} further rows repeat a text: each text counts once, as it first stands, in the figures, the intervals and the promise.",
    "n_cut": "{n} prompts or texts were longer than the context and were cut.",
    "classes_text": (
        "{n} labelled rows: {accuracy} right. Always giving the commonest label, {label}, would be right on {share} %."
        " {left_out} more rows"
        " were left out."
    ),
    "label": "label",
    "n_has": "rows that have it",
    "n_given": "rows given it",
    "recall": "found of those that have it",
    "precision": "right of those given it",
    "speed_text": "Medians of {rounds} short runs on this machine ({cpu}, {threads} threads); another machine gives other figures.",
    "reading_row": "reading, tokens a second",
    "writing_row": "writing one text, tokens a second",
    "weights_row": "weights",
    "resident_row": "memory of the whole process",
    "contamination_text": (
        "The share of texts that have a run of {n} words in common with the text that the model learned from; of those with fewer words,"
        " that stand in it whole. Such a short text is judged only where it is found."
    ),
    "overlap": "documents that overlap",
    "judged": "judged",
    "documents": "documents",
    "rules": "How the verdict is made",
    "rules_text": "Every sentence of the verdict follows from the figures by a fixed rule; intervals are at 95 %.",
    "rule_language": (
        "Text: better or worse than the best compressor where the interval of the difference by document does not"
        " cover 0, else a tie; with"
        " fewer than {units} documents nothing is said."
    ),
    "rule_right": (
        "Answers and labels: beyond guessing (at 95 % for all kinds together), or beyond the commonest label, where the whole exact"
        " interval is; with"
        " fewer than {few} nothing"
        " is said."
    ),
    "rule_confidence": (
        "Confidence: true where the calibration error (ECE, 15 bins) is no larger than what an exactly calibrated"
        " model shows at this number"
        " of answers (the upper end of 95 % of simulations); up to {near} it is called small."
    ),
    "rule_promise": (
        "Promise: a threshold is found by tests on one half (learn then test, fallback procedure); on the other half"
        " it held if no more were"
        " wrong than promised, and is broken if the exact interval lies above."
    ),
    "rule_prompts": "Wording: it matters where best and worst way differ by McNemar's exact test, p below {p} times the number of pairs.",
    "rule_contamination": (
        "Seen in training: more than {overlap} % of the texts are found there; then nothing good that was measured on them is vouched for."
        " New: no more than that are, and at least {units} and at least half can be judged. Else it is not known."
    ),
}
