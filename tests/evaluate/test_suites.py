"""Benchmarks read their files, ask what their sources say, count what cannot be used, and score as their papers do."""

import gzip
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from touchstone.errors import ConfigError, DataError, UnknownName
from touchstone.evaluate.ask import ChoiceRequest, GenerateRequest, LoglikelihoodRequest
from touchstone.evaluate.run import run_task
from touchstone.evaluate.suites import SUITES, suite_task
from touchstone.evaluate.suites.choosing import arc_easy, copa, hellaswag, piqa, truthfulqa, winogrande
from touchstone.evaluate.suites.classes import chnsenticorp, clinc150, sst2, trec
from touchstone.evaluate.suites.entity_tags import weibo, wnut17, word_tags
from touchstone.evaluate.suites.passages import xquad_en
from touchstone.evaluate.suites.prediction import lambada, openwebtext, tinystories, wikitext2
from touchstone.evaluate.suites.programs import humaneval, mbpp
from touchstone.evaluate.suites.sentences import cola, rte, stsb
from touchstone.evaluate.suites.tables import rows_of
from touchstone.evaluate.suites.writing_suites import multi30k, scitldr, tatoeba
from touchstone.evaluate.task import BadRow, EvalExample
from touchstone.infer import LanguageModel
from touchstone.infer.answer_set import AnswerSet
from touchstone.infer.labelling import TaggedWord, Tagging
from touchstone.infer.request import Completion
from touchstone.infer.score import LogLikelihood
from touchstone.models import build
from touchstone.models.llama2c import read_llama2c, read_llama2c_tokenizer

N_ROWS = {  # examples that can be asked about, from the list of the files' contents
    **{"lambada": 2576, "hellaswag": 500, "arc-easy": 1188, "piqa": 919, "winogrande": 649, "copa": 32, "truthfulqa": 406},
    **{"cola": 1301, "rte": 2490, "sts-b": 1500, "sst-2": 872, "trec": 500, "ag-news": 1000, "banking77": 1000, "clinc150": 3100},
    **{"chnsenticorp": 1161, "xquad-en": 785, "xquad-zh": 785, "cmrc2018": 1002, "wnut17": 1009, "bc5cdr": 4578, "resumes": 462},
    **{"weibo": 262, "multi30k-de": 1014, "multi30k-fr": 1014, "dialogsum": 500, "scitldr": 619, "csl-titles": 1000},
    **{"humaneval": 82, "mbpp": 474, "tinystories": 1944, "clue": 2000, "tang-poems": 12008},
}


def examples(task):
    return [row for row in task.examples if isinstance(row, EvalExample)]


def bad_rows(task):
    return [row for row in task.examples if isinstance(row, BadRow)]


def asked(task, n=0):
    return task.requests(examples(task)[n])


def answer_set(logprobs):
    return AnswerSet(tuple("abcdefgh"[: len(logprobs)]), tuple(logprobs), tuple(logprobs), (1,) * len(logprobs), (1,) * len(logprobs), 0)


def likelihood(logprob, greedy=True):
    return LogLikelihood(logprob, greedy, (logprob,), 0)


def completion(text):
    return (Completion(0, 0, text, (), (), None, "stop", (), 0),)


# What is asked: the forms of lm-evaluation-harness 0.4.9.

HELLASWAG = {
    "activity_label": "Making tea",
    "ctx_a": "[header] How to make tea [title] Boil water.",
    "ctx_b": "then",
    "endings": ["[step] pour  it", "leave", "sing", "run"],
    "label": 2,
}


def test_hellaswag_asks_as_the_harness_does(jsonl):
    request = asked(hellaswag(jsonl(HELLASWAG)))[0]
    assert request.context == "Making tea: How to make tea. Boil water. Then"
    assert request.answers == ("  pour it", " leave", " sing", " run")  # the harness leaves the space behind a bracket, too


def test_questions_of_arc_and_piqa_end_in_answer(jsonl):
    path = jsonl({"query": "Question: Why?", "choices": ["so", "no"], "gold": 0})
    assert asked(arc_easy(path)) == [ChoiceRequest("Question: Why?\nAnswer:", (" so", " no")), ChoiceRequest("Answer:", (" so", " no"))]
    assert asked(piqa(path))[0].context == "Question: Why?\nAnswer:"


def test_copa_joins_the_sentences(jsonl):
    row = {"premise": "It rained.", "choice1": "The road got wet.", "choice2": "The sun set.", "question": "effect", "label": 0}
    assert asked(copa(jsonl(row)))[0] == ChoiceRequest("It rained therefore", (" the road got wet.", " the sun set."))


def test_winogrande_scores_the_ending_behind_each_name_and_twins_are_one_cluster(jsonl):
    row = {"context_options": ["Ann", "Bea"], "continuation": "left.", "gold": 1}
    task = winogrande(jsonl(row, {**row, "continuation": "stayed.", "gold": 0}))
    assert asked(task) == [LoglikelihoodRequest("Ann", " left."), LoglikelihoodRequest("Bea", " left.")]
    assert len({example.source for example in examples(task)}) == 1
    scores = task.score(examples(task)[0], [likelihood(-3.0), likelihood(-2.0)])
    assert scores == {"accuracy": 1.0, "probability": pytest.approx(math.exp(-2) / (math.exp(-2) + math.exp(-3)))}
    assert task.score(examples(task)[1], [likelihood(-3.0), likelihood(-2.0)])["accuracy"] == 0


TRUTHFUL = (
    "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
    'A,B,Why?,No reason,"No reason; It is so","Magic; Aliens; Luck",web\n'
)


def test_truthfulqa_has_six_questions_before_it_and_scores_mc1_and_mc2(written):
    task = truthfulqa(written(TRUTHFUL, "t.csv"))
    request = asked(task)[0]
    assert request.context.startswith("Q: What is human life expectancy in the United States?\nA: Human life expectancy")
    assert request.context.endswith("were held in Barcelona, Spain.\n\nQ: Why?\nA:")
    assert request.answers == (" No reason.", " It is so.", " Magic.", " Aliens.", " Luck.")
    logprobs = [-1.0, -2.0, -1.5, -3.0, -4.0]
    weights = np.exp(logprobs)
    scores = task.score(examples(task)[0], [answer_set(logprobs)])
    assert scores == {"accuracy": 1.0, "true_share": pytest.approx(weights[:2].sum() / weights.sum())}
    assert task.baselines[0].score(examples(task)[0]) == {"accuracy": 1 / 4, "true_share": 2 / 5}


def test_glue_tasks_ask_as_the_harness_does(written, jsonl):
    path = written("gj04\t0\t*\tThe car honked down the road.\n", "c.tsv")
    assert asked(cola(path))[0] == ChoiceRequest(
        "The car honked down the road.\nQuestion: Does this sentence make sense?\nAnswer:", (" no", " yes")
    )
    path = jsonl({"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment"})
    assert asked(rte(path))[0] == ChoiceRequest("It rains.\nQuestion: It is wet. True or False?\nAnswer:", (" True", " False"))
    path = written("a fine film\t1\n", "s.tsv")
    assert asked(sst2(path))[0] == ChoiceRequest(
        "a fine film\nQuestion: Is this sentence positive or negative?\nAnswer:", (" negative", " positive")
    )


def test_no_space_stands_before_a_chinese_answer(written):
    path = written("label\ttext_a\n1\t很好\n0\t不好\n", "c.tsv")
    request = asked(chnsenticorp(path, train=path, shots=1))[0]
    assert request.answers == ("负面", "正面")
    assert request.context.split("\n\n")[0] in (
        "评论：很好\n问题：这条评论是正面的还是负面的？\n回答：正面",
        "评论：不好\n问题：这条评论是正面的还是负面的？\n回答：负面",
    )


def test_lambada_asks_for_the_last_word(jsonl):
    task = lambada(jsonl({"text": "Bob saw Ann and said to Ann"}))
    assert asked(task) == [LoglikelihoodRequest("Bob saw Ann and said to", " Ann")]
    example = examples(task)[0]
    assert task.score(example, [likelihood(-2.5, greedy=False)]) == {"accuracy": 0.0, "nats": 2.5, "n": 1.0}
    by_name = {baseline.name: baseline.score(example) for baseline in task.baselines}
    assert (by_name["copy"]["accuracy"], by_name["copy name"]["accuracy"]) == (1 / 6, 1 / 2)


def test_wikitext_is_read_by_article_in_written_form(written):
    path = written(' \n = One = \n \n He said , " yes " ( it \'s 3 @.@ 5 ) . \n = = Part = = \n = Two = \n \n More .\n', "w.txt")
    task = wikitext2(path)
    assert [example.fields["text"].split("\n")[0].strip() for example in examples(task)] == ["= One =", "= Two ="]
    assert asked(task)[0].text == ' = One =\n\nHe said, "yes" (it\'s 3.5). \n== Part ==\n'.replace(". \n", ".\n")
    scores = task.score(examples(task)[0], [likelihood(-30.0)])
    raw = examples(task)[0].fields["text"]
    assert scores["bytes"] == len(raw.encode())
    assert scores["bits"] == pytest.approx(30 / math.log(2))


def test_stories_end_at_their_mark_or_at_an_empty_line(written):
    marked = tinystories(written("One.\n\nStill one.\n<|endoftext|>\nTwo.\n", "a.txt.gz"))
    assert [example.fields["text"] for example in examples(marked)] == ["One.\n\nStill one.", "Two."]
    plain = tinystories(written("One.\n\nTwo.\nStill two.\n", "b.txt"))
    assert [(example.fields["text"], example.where.rpartition(":")[2]) for example in examples(plain)] == [
        ("One.", "1"),
        ("Two.\nStill two.", "3"),
    ]


def test_ids_of_gpt2_are_read_as_the_text_they_stand_for(tmp_path):
    (tmp_path / "v.json").write_text(json.dumps({"H": 0, "i": 1, "Ġ": 2, "Ã": 3, "©": 4, "<|endoftext|>": 5, "Ċ": 6}))
    np.array([5, 0, 1, 2, 3, 4, 6, 5, 1, 1], dtype="<u2").tofile(tmp_path / "x.bin")
    task = openwebtext(tmp_path / "x.bin", vocabulary=tmp_path / "v.json")
    assert [example.fields["text"] for example in examples(task)] == ["Hi é\n", "ii"]
    np.array([9], dtype="<u2").tofile(tmp_path / "y.bin")
    with pytest.raises(ConfigError, match=r"has 7 tokens, and y.bin ids up to 9"):
        examples(openwebtext(tmp_path / "y.bin", vocabulary=tmp_path / "v.json"))


def test_an_ngram_stands_beside_a_text_where_a_training_split_is_given(written):
    path, train = written("the cat\n<|endoftext|>\n", "a.txt"), written("the cat sat\n<|endoftext|>\nthe cat ran\n", "t.txt")
    task = tinystories(path, train=train)
    nats = {baseline.name: task.baseline_scores(baseline, examples(task)[0])["bits"] for baseline in task.baselines}
    assert nats["n-gram"] < nats["unigram"]
    assert [baseline.name for baseline in tinystories(path).baselines] == ["unigram"]


SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "Bob sold the boat. Ann bought it.",
                    "qas": [
                        {"id": "1", "question": "Who sold the boat?", "answers": [{"text": "Bob", "answer_start": 0}]},
                        {"id": "2", "question": " ", "answers": [{"text": "Bob", "answer_start": 0}]},
                        {"id": "3", "question": "What?", "answers": []},
                    ],
                },
                {"context": "No questions."},
            ]
        }
    ]
}


def test_questions_on_a_passage_are_asked_of_a_head_or_written(tmp_path):
    (tmp_path / "q.json").write_text(json.dumps(SQUAD))
    head, writing = xquad_en(tmp_path / "q.json"), xquad_en(tmp_path / "q.json", by="writing")
    assert asked(writing)[0].prompt == "Context: Bob sold the boat. Ann bought it.\n\nQuestion: Who sold the boat?\n\nAnswer:"
    assert asked(writing)[0].sampling.stop == ("\n",)
    assert writing.score(examples(writing)[0], [completion(" Bob")]) == {"exact_match": 1.0, "f1": 1.0}
    assert [row.kind for row in bad_rows(head)] == ["empty text", "missing field", "missing field"]
    assert bad_rows(head)[2].where.endswith("q.json:data[0].paragraphs[1]")
    lead = head.baselines[0].score(examples(head)[0])
    assert lead == {"exact_match": 0.0, "f1": pytest.approx(2 * 1 / (1 + 3))}  # Bob sold (the) boat, of which one word is right


def test_entities_are_judged_word_by_word(written):
    task = wnut17(
        written("Ann\tB-person\nLee\tI-person\nsaid\tO\nU.S.\tB-location\n\n", "w.tsv"),
        train=written("Ann\tB-person\nLee\tI-person\n\n", "t.tsv"),
    )
    example = examples(task)[0]
    assert asked(task)[0].text == "Ann Lee said U.S."

    def tagging(labels):
        starts = [0, 4, 8, 13, 14, 15, 16]
        words = ["Ann", "Lee", "said", "U", ".", "S", "."]
        return Tagging(tuple(TaggedWord(w, s, s + len(w), label, 1.0) for w, s, label in zip(words, starts, labels, strict=True)), ())

    right = tagging(["B-person", "I-person", "O", "B-location", "O", "O", "O"])
    assert word_tags(right, example.fields["starts"]) == ("B-person", "I-person", "O", "B-location")
    assert task.scored(example, [right]) == {"n_right": 2, "n_found": 2, "n_there": 2, "n_right_tags": 4, "n_tags": 4}
    half = tagging(["B-person", "O", "O", "B-location", "O", "O", "O"])
    assert task.scored(example, [half]) == {"n_right": 1, "n_found": 2, "n_there": 2, "n_right_tags": 3, "n_tags": 4}
    memory = {baseline.name: task.baseline_scores(baseline, example) for baseline in task.baselines}["memory"]
    assert memory["n_right"] == memory["n_found"] == 1


def test_characters_of_weibo_lose_the_number_behind_them(written):
    task = weibo(written("我0\tO\n在0\tO\n北0\tB-GPE.NAM\n京1\tI-GPE.NAM\n\n", "w.tsv"))
    assert asked(task)[0].text == "我在北京"


def test_translations_of_one_sentence_are_its_references(written):
    pytest.importorskip("sacrebleu")
    task = tatoeba(written("Hi.\t嗨。\nHi.\t你好。\nRun.\t跑！\nHi\t\n", "t.tsv"))
    assert [example.fields["references"] for example in examples(task)] == [["嗨。", "你好。"], ["跑！"]]
    assert [row.kind for row in bad_rows(task)] == ["empty text"]
    assert asked(tatoeba(task.data[0], by="prompt"))[0].prompt == "English phrase: Hi.\nChinese phrase:"


def test_parallel_files_say_where_one_ends(written):
    written("Ein Hund.\n", "val.de")
    task = multi30k(written("A dog.\nA cat.\n", "val.en"))
    assert [example.fields for example in examples(task)] == [{"text": "A dog.", "references": ["Ein Hund."]}]
    assert str(bad_rows(task)[0]).endswith("val.en:2: missing field: `val.de` has no such line")


def test_a_summary_is_judged_by_its_best_reference_and_beside_the_lead(jsonl):
    task = scitldr(jsonl({"source": ["A b c.", "D e."], "target": ["d e", "a b c"]}))
    example = examples(task)[0]
    assert asked(task)[0].prompt == "A b c. D e."
    assert task.score(example, [completion("a b c")])["rouge_l"] == 1
    assert {baseline.name: baseline.score(example)["rouge_1"] for baseline in task.baselines} == {"lead": 1.0, "last": 1.0}


CLINC = {
    "train": [["pay", "bill"], ["fly", "flight"], ["why", "oos"]],
    "val": [["pay now", "bill"]],
    "oos_train": [["hm", "oos"]],
    "oos_val": [["eh", "oos"]],
}


def test_what_is_out_of_scope_has_its_own_recall(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(CLINC))
    task = clinc150(path)
    assert asked(task)[0].answers == (" bill", " flight", " out of scope")
    inside, outside = examples(task)
    right, wrong = task.scored(inside, [answer_set([-1, -2, -3])]), task.scored(outside, [answer_set([-1, -2, -3])])
    assert (right["right_within"], right["n_within"], right["n_outside"]) == (1, 1, 0)
    assert (wrong["right_outside"], wrong["n_outside"], wrong["accuracy"]) == (0, 1, 0)
    assert {metric.name for metric in task.metrics} >= {"accuracy_within", "recall_outside"}


def test_the_majority_is_counted_in_the_training_split(written):
    task = sst2(written("good\t1\nbad\t0\n", "d.tsv"), train=written("x\t0\ny\t0\nz\t1\n", "t.tsv"))
    majority = task.baselines[0]
    assert [task.baseline_scores(majority, example)["accuracy"] for example in examples(task)] == [0, 1]


def test_shots_are_drawn_once_from_the_training_split_and_by_the_seed(written):
    path, train = written("good\t1\nbad\t0\n", "d.tsv"), written("".join(f"film {n}\t{n % 2}\n" for n in range(30)), "t.tsv")
    first = asked(sst2(path, train=train, shots=3))[0].context
    assert first == asked(sst2(path, train=train, shots=3), 1)[0].context.replace("bad\n", "good\n")
    parts = first.split("\n\n")
    assert len(parts) == 4
    for part in parts[:3]:
        number = int(part.split()[1])
        assert part == f"film {number}\nQuestion: Is this sentence positive or negative?\nAnswer: {('negative', 'positive')[number % 2]}"
    others = {asked(sst2(path, train=train, shots=3, seed=seed))[0].context for seed in range(4)}
    assert len(others) == 4
    with pytest.raises(ConfigError, match="training split"):
        sst2(path, shots=2)
    with pytest.raises(DataError, match="31 shots are asked for, and the training split has 30"):
        asked(sst2(path, train=train, shots=31))


@pytest.mark.slow
def test_programs_are_run_with_their_tests(jsonl):
    row = {"task_id": "HumanEval/0", "prompt": "def one():\n", "test": "def check(f):\n    assert f() == 1\n", "entry_point": "one"}
    task = humaneval(jsonl(row))
    example = examples(task)[0]
    assert asked(task)[0].prompt == "def one():\n"
    assert task.score(example, [completion("    return 1\n")]) == {"pass@1": 1.0}
    assert task.baselines[0].score(example) == {"pass@1": 0.0}
    drawn = humaneval(jsonl(row), n=2, k=2, temperature=0.8)
    two = completion("    return 1\n") + completion("    return 2\n")
    assert drawn.score(example, [two]) == {"pass@1": 0.5, "pass@2": 1.0}
    with pytest.raises(ConfigError, match="needs a `temperature` above 0"):
        humaneval(jsonl(row), n=2)


def test_mbpp_shows_the_task_and_its_tests(jsonl):
    row = {"task_id": 2, "text": "Write one.", "code": "x = 1", "test_setup_code": "", "test_list": ["assert x == 1", "assert x < 2"]}
    task = mbpp(jsonl(row), train=jsonl({**row, "task_id": 3}, name="train.jsonl"), shots=1)
    form = (
        "You are an expert Python programmer, and here is your task: Write one. Your code should pass these tests:\n\n"
        "assert x == 1\nassert x < 2\n[BEGIN]\n"
    )
    assert asked(task)[0].prompt == f"{form}x = 1\n[DONE]\n\n{form}"
    assert asked(task)[0].sampling.stop == ("[DONE]",)


def test_the_likeness_of_sentences_is_a_cosine_or_a_number(written):
    path = written("a\tb\tc\t1\t4.000\tA dog.\tA dog runs.\tx\ty\na\tb\tc\t2\t1.0\tA cat.\n", "s.csv")
    task = stsb(path)
    scores = task.score(examples(task)[0], [np.array([1.0, 0.0]), np.array([1.0, 1.0])])
    assert scores == {"predicted": pytest.approx(math.sqrt(0.5)), "expected": 4.0}
    assert bad_rows(task)[0].reason == "6 columns where there are seven or more"


# Rows that cannot be used.


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ({"choices": ["a", "b"], "gold": 0}, "missing field", "no `query`; it has choices, gold"),
        ({"query": 3, "choices": ["a", "b"], "gold": 0}, "wrong type", "`query` is int, not text"),
        ({"query": " ", "choices": ["a", "b"], "gold": 0}, "empty text", "`query` is empty"),
        ({"query": "q", "choices": ["a", "b"], "gold": 2}, "unknown label", "there are 2 answers (0 to 1)"),
        ({"query": "q", "choices": ["a", "b"], "gold": "x"}, "wrong type", "`gold` is 'x', not a whole number"),
        ({"query": "q", "choices": "ab", "gold": 0}, "wrong type", "`choices` is not a list of texts"),
        ({"query": "q", "choices": ["a", ""], "gold": 0}, "empty text", "one of its texts is"),
        ({"query": "q", "choices": ["a", "a"], "gold": 0}, "repeated answer", "`a` is there twice"),
        ("{no json", "not readable", "not JSON"),
        ("[1]", "not readable", "not a JSON object"),
    ],
)
def test_each_bad_row_is_told_by_kind_and_place(jsonl, row, kind, reason):
    path = jsonl({"query": "q", "choices": ["a", "b"], "gold": 1}, row)
    found = bad_rows(arc_easy(path))
    assert [(each.where, each.kind) for each in found] == [(f"{path}:2", kind)]
    assert reason in found[0].reason
    assert len(examples(arc_easy(path))) == 1


def test_an_unknown_label_has_its_nearest_named(written):
    found = bad_rows(trec(written("LOCA:city Where ?\nHUM:ind Who ?\n", "t.txt")))
    assert "`label` is `LOCA`; near: `LOC`" in found[0].reason


def test_a_row_of_other_columns_is_one_bad_row(written):
    path = written('text,category\na,b\nc\n"d, e",f\n', "r.csv")
    rows = list(rows_of(path))
    assert [row.fields for row in rows if not isinstance(row, BadRow)] == [
        {"text": "a", "category": "b"},
        {"text": "d, e", "category": "f"},
    ]
    assert str(rows[1]) == f"{path}:3: not readable: 1 fields where there are 2 (text, category)"
    with pytest.raises(DataError, match=r"not `.xyz`"):
        rows_of(written("", "r.xyz"))


# The catalogue.


def test_an_unknown_suite_has_its_nearest_named():
    with pytest.raises(UnknownName, match="Did you mean `hellaswag`"):
        suite_task("helaswag", "x")


def test_a_suite_finds_its_file_in_a_folder_or_takes_it(tmp_path, jsonl):
    with pytest.raises(DataError, match=r"neither benchmarks/piqa.jsonl.gz is there"):
        suite_task("piqa", tmp_path)
    path = jsonl({"query": "q", "choices": ["a", "b"], "gold": 1}, name="piqa.jsonl.gz")
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert suite_task("piqa", tmp_path).data == suite_task("piqa", path).data == (path,)
    with pytest.raises(ConfigError, match="give the file, or the folder"):
        suite_task("piqa")
    with pytest.raises(ConfigError, match="`piqa` takes no `by`; it takes train, shots, seed"):
        suite_task("piqa", path, by="head")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(N_ROWS))
def test_every_row_of_the_test_data_is_read(test_data, name):
    task = suite_task(name, test_data if SUITES[name].files else None)
    good, bad = examples(task), bad_rows(task)
    assert len(good) + len(bad) == N_ROWS[name]
    assert len(bad) <= 2, bad
    assert all(isinstance(example.fields, dict) and example.where.startswith(str(test_data)) for example in good)
    assert len({example.id for example in good}) == len(good)
    assert all(task.requests(example) for example in good[:20])
    for baseline in task.baselines:
        assert task.baseline_scores(baseline, good[0])


def test_every_suite_of_the_catalogue_says_what_it_is():
    for name, suite in SUITES.items():
        assert suite.description.endswith("."), name
        assert suite.make.__doc__, name
        assert suite.needs.startswith("a"), name


@pytest.mark.slow
def test_a_real_model_predicts_stories_better_than_counted_bytes(test_data):
    folder = test_data / "weights" / "stories260K"
    stored = read_llama2c(folder / "stories260K.bin")
    net = build(stored.spec, seed=None)
    net.load_state_dict(stored.state, assign=True)
    model = LanguageModel(net.eval(), tokenizer=read_llama2c_tokenizer(folder / "tok512.bin", 512))
    stories = list(suite_task("tinystories", test_data).examples)[:40]
    result = run_task(model, replace(suite_task("tinystories", test_data), examples=stories))
    texts = [story.fields["text"] for story in stories]
    found = model.rolling(texts)
    bits = result.figure("bits_per_byte")
    n_bytes = sum(len(text.encode()) for text in texts)
    assert bits.value == pytest.approx(-sum(one.logprob for one in found) / math.log(2) / n_bytes, rel=1e-5)
    assert bits.baselines[0].verdict == "better"
    assert bits.low < bits.value < bits.high


def test_requests_of_writing_are_greedy_unless_drawn(jsonl):
    request = asked(scitldr(jsonl({"source": ["a"], "target": ["b"]})))[0]
    assert isinstance(request, GenerateRequest)
    assert request.sampling.temperature == 0.0
