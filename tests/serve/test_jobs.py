"""What the engine process is asked becomes work, or is refused before any is done."""

import pytest
from running import CHATML, TEXT

from touchstone.errors import ConfigError, NoTokenizer, Unsupported
from touchstone.infer import LanguageModel
from touchstone.models import build, decoder_spec, encoder_decoder_spec
from touchstone.models.card import Card
from touchstone.serve.driver import Generation, Reading
from touchstone.serve.jobs import Jobs
from touchstone.text.tokenizer import Tokenizer

USER = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([TEXT], kind="bpe", vocab_size=270, specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>"))


@pytest.fixture(scope="module")
def jobs_of(tokenizer):
    """Makes the jobs of a small decoder of 16 tokens."""
    made = []

    def make(*, has_tokenizer=True, template=None):
        net = build(decoder_spec(vocab_size=tokenizer.vocab_size, d_model=12, n_layers=1, n_heads=2, max_seq_len=16), seed=0).eval()
        made.append(Jobs(LanguageModel(net, tokenizer=tokenizer if has_tokenizer else None, card=Card(chat_template=template))))
        return made[-1]

    yield make
    for jobs in made:
        jobs.close()


def generate(**fields):
    return {"do": "generate", "id": 7, "sampling": {}, "constraint": None, **fields}


def pieces(job):
    assert isinstance(job, Reading)
    return [piece for piece in job.pieces if piece is not None]


def test_without_a_template_there_is_no_chat_and_the_reason_is_told(jobs_of):
    jobs = jobs_of()
    assert jobs.facts()["chat"] is False
    with pytest.raises(ConfigError, match=r"no chat template.*plain prompt"):
        jobs.made(generate(messages=USER))
    assert isinstance(jobs.made(generate(prompts=["hello"])), Generation)


def test_with_a_template_a_conversation_is_one_prompt(jobs_of, tokenizer):
    jobs = jobs_of(template=CHATML)
    assert jobs.facts()["chat"] is True
    (request,) = jobs.made(generate(messages=USER)).requests
    assert tokenizer.decode(request.prompt, skip_special=False) == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


def test_without_a_tokenizer_ids_are_taken_and_texts_refused(jobs_of):
    jobs = jobs_of(has_tokenizer=False)
    assert (jobs.facts()["has_tokenizer"], jobs.facts()["chat"]) == (False, False)
    assert jobs.made(generate(prompts=[[1, 2]])).requests[0].prompt == (1, 2)
    for refused in (generate(prompts=["a"], sampling={"max_new_tokens": 0}), generate(messages=USER), {"do": "tokenize", "text": "a"}):
        with pytest.raises(NoTokenizer):
            jobs.made({"add_special": False, "with_pieces": False, **refused})


def test_no_new_tokens_give_one_end_a_choice_and_the_length_of_each_prompt(jobs_of):
    job = jobs_of().made(generate(prompts=[[1, 2, 3], [4]], sampling={"max_new_tokens": 0, "n": 2}))
    (message,) = pieces(job)
    ends = [(event["i"], event["j"], event["f"], event["n"], event["n_prompt"]) for event in message["events"]]
    assert ends == [(0, 0, "length", 0, 3), (0, 1, "length", 0, 3), (1, 0, "length", 0, 1), (1, 1, "length", 0, 1)]
    assert job.then is None


def test_an_echo_comes_first_and_the_completion_then(jobs_of, tokenizer):
    job = jobs_of().made(generate(prompts=["One day"], echo=True, sampling={"top_logprobs": 2}))
    (message,) = pieces(job)
    assert message["echo"]["text"] == "One day"
    assert [token["id"] for token in message["echo"]["tokens"]] == tokenizer.encode("One day")
    assert "logprob" not in message["echo"]["tokens"][0]
    assert isinstance(job.then, Generation)


@pytest.mark.parametrize(("n_ids", "n_new", "fits"), [(16, 0, True), (17, 0, False), (15, 1, True), (16, 1, False)])
def test_an_echoed_prompt_must_leave_room_before_any_of_it_is_sent(jobs_of, n_ids, n_new, fits):
    asked = generate(prompts=[[5] * n_ids], echo=True, sampling={"max_new_tokens": n_new})
    if fits:
        assert len(pieces(jobs_of().made(asked))) == 2 - n_new
    else:
        with pytest.raises(ConfigError, match=f"{n_ids} tokens and the context holds 16"):
            jobs_of().made(asked)


@pytest.mark.parametrize("ids", [[], [10**6], [-1]])
@pytest.mark.parametrize("fields", [{"echo": True}, {"sampling": {"max_new_tokens": 0}}], ids=["echo", "no new tokens"])
def test_ids_that_are_none_are_refused_also_where_nothing_is_computed(jobs_of, ids, fields):
    with pytest.raises(ConfigError, match="`prompt`"):
        jobs_of().made(generate(prompts=[ids], **fields))


def test_an_encoder_decoder_has_no_echo_and_counts_its_source(tokenizer):
    spec = encoder_decoder_spec(
        vocab_size=tokenizer.vocab_size, d_model=12, n_heads=2, n_encoder_layers=1, n_decoder_layers=1, d_ff=17, max_seq_len=14
    )
    settings = {"decoder_start_token_id": 1}
    jobs = Jobs(LanguageModel(build(spec, seed=0).eval(), tokenizer=tokenizer, generation_config=settings))
    with pytest.raises(ConfigError, match="encoder-decoder"):
        jobs.made(generate(prompts=["hello"], echo=True))
    (message,) = pieces(jobs.made(generate(prompts=["hello"], sampling={"max_new_tokens": 0})))
    assert message["events"][0]["n_prompt"] == len(tokenizer.encode_special("hello").token_ids)
    with pytest.raises(Unsupported, match="classify"):
        jobs.made({"do": "classify", "id": 1, "texts": ["a"]})
    jobs.close()
