#!/usr/bin/env python3
"""Holds a running Shoal node to OpenAI's contract with OpenAI's own Python client.

    openai_client.py [http://127.0.0.1:52415/v1] [--model demo]

Each check prints one line; the exit status is 1 if any failed.
"""

import argparse
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

import openai

QUESTION = "What is Shoal?"
CHECKS = []


def check(function):
    """Registers a check; its name is the fact that it shows."""
    CHECKS.append(function)
    return function


class Node:
    """A client of one node, and one model of it."""

    def __init__(self, base_url, model):
        # A retry would hide a failure; the time-out is longer than any answer of these checks takes on a slow phone.
        self.client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=120)
        self.model = model

    def ask(self, question=QUESTION, **options):
        """Returns the completion of one question; greedy and short unless `options` say otherwise."""
        return self.client.chat.completions.create(**self._request(question, options))

    def stream(self, question=QUESTION, **options):
        """Returns the stream of one question's answer."""
        request = self._request(question, options)
        return self.client.chat.completions.create(stream=True, **request)

    def text(self, question=QUESTION, **options):
        """Returns only the answer's text."""
        return self.ask(question, **options).choices[0].message.content

    def _request(self, question, options):
        messages = [{"role": "user", "content": question}]
        return {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 48} | options


def expect(condition, *got):
    """Fails the running check with what was `got`."""
    if not condition:
        raise AssertionError(f"got {', '.join(map(repr, got))}")


def refused(kind, request):
    """Returns the error of `kind` that `request` must raise."""
    try:
        answer = request()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, got {answer!r}")


def names(error, field):
    """Whether a refusal says which field is wrong."""
    return error.param == field or (error.param or "").startswith(f"{field}[") or field in error.message


@check
def lists_its_models(node):
    models = node.client.models.list().data
    expect(node.model in [model.id for model in models], models)
    expect(all(model.object == "model" and isinstance(model.created, int) for model in models), models)


@check
def answers_a_question(node):
    answer = node.ask()
    choice, usage = answer.choices[0], answer.usage
    expect(answer.object == "chat.completion" and answer.id and answer.created > 0, answer)
    expect(len(answer.choices) == 1 and choice.index == 0, answer.choices)
    expect(choice.message.role == "assistant" and choice.message.content.strip(), choice)
    expect(choice.finish_reason in ("stop", "length"), choice)
    expect(usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 48, usage)
    expect(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage)


@check
def answers_a_conversation(node):
    messages = [
        {"role": "system", "content": "You are Shoal."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hello. What would you like to know?"},
        {"role": "user", "content": QUESTION},
    ]
    answer = node.ask(messages=messages)
    expect(answer.choices[0].message.content, answer)
    expect(answer.usage.prompt_tokens > node.ask().usage.prompt_tokens, answer.usage)


@check
def takes_content_in_parts(node):
    messages = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    expect(node.text(messages=messages) == node.text(), messages)


@check
def streams_the_same_answer(node):
    whole = node.ask()
    chunks = list(node.stream(stream_options={"include_usage": True}))
    with_choice = [chunk for chunk in chunks if chunk.choices]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in with_choice)
    reasons = [chunk.choices[0].finish_reason for chunk in with_choice]
    expect(all(chunk.object == "chat.completion.chunk" for chunk in chunks), chunks)
    expect(len({chunk.id for chunk in chunks}) == 1, chunks)
    expect(with_choice[0].choices[0].delta.role == "assistant", with_choice[0])
    expect(text == whole.choices[0].message.content, text, whole)
    expect(reasons[-1] == whole.choices[0].finish_reason, reasons)
    expect(all(reason is None for reason in reasons[:-1]), reasons)
    expect(not chunks[-1].choices and chunks[-1].usage, chunks[-1])
    got = (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens)
    expect(got == (whole.usage.prompt_tokens, whole.usage.completion_tokens), got, whole.usage)


@check
def streams_in_more_than_one_piece(node):
    pieces = [chunk for chunk in node.stream() if chunk.choices and chunk.choices[0].delta.content]
    expect(len(pieces) > 1, pieces)


@check
def streams_no_usage_unasked(node):
    expect(all(chunk.usage is None for chunk in node.stream(max_tokens=4)), "usage")


@check
def gives_the_same_text_for_the_same_seed(node):
    first = node.text(temperature=1.0, seed=7)
    expect(first == node.text(temperature=1.0, seed=7), first)


@check
def gives_another_text_for_some_other_seed(node):
    texts = {node.text("Tell me something.", temperature=2.0, seed=seed) for seed in range(6)}
    expect(len(texts) > 1, texts)


@check
def gives_the_same_text_beside_other_requests(node):
    alone = node.text(temperature=1.0, seed=11)
    questions = [QUESTION, "How do I add a phone?", "Hello!", "Why does the WiFi matter?"]
    with ThreadPoolExecutor(len(questions)) as pool:
        texts = list(pool.map(lambda question: node.text(question, temperature=1.0, seed=11), questions))
    expect(texts[0] == alone, texts[0], alone)


@check
def ends_before_a_stop_string(node):
    whole = node.text()
    stop = whole[len(whole) // 2 :][:3]
    before = whole[: whole.index(stop)]
    answer = node.ask(stop=stop)
    expect(answer.choices[0].message.content == before, answer, before)
    expect(answer.choices[0].finish_reason == "stop", answer)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in node.stream(stop=[stop, "\x00"]))
    expect(streamed == before, streamed, before)


@check
def ends_at_max_tokens(node):
    for name in ("max_tokens", "max_completion_tokens"):
        options = {"max_tokens": openai.NOT_GIVEN, name: 3}
        answer = node.ask(**options)
        expect(answer.choices[0].finish_reason == "length", name, answer)
        expect(answer.usage.completion_tokens == 3, name, answer.usage)


@check
def goes_on_after_a_client_leaves(node):
    for _ in range(8):
        with node.stream(max_tokens=400) as stream:
            next(iter(stream))
    expect(node.text(), "no text")


@check
def refuses_an_unknown_model(node):
    error = refused(openai.NotFoundError, lambda: node.ask(model="no-such-model"))
    expect(error.code == "model_not_found" and "no-such-model" in error.message, error.code, error.message)


@check
def refuses_a_value_of_the_wrong_type(node):
    error = refused(openai.BadRequestError, lambda: node.ask(extra_body={"temperature": "hot"}))
    expect(names(error, "temperature"), error.param, error.message)
    error = refused(openai.BadRequestError, lambda: node.ask(extra_body={"messages": "hello"}))
    expect(names(error, "messages"), error.param, error.message)


@check
def refuses_a_value_out_of_range(node):
    for field, value in (("temperature", -1), ("top_p", 1.5), ("max_tokens", -5)):
        error = refused(openai.BadRequestError, lambda: node.ask(**{field: value}))
        expect(names(error, field), field, error.param, error.message)


@check
def refuses_a_missing_field(node):
    def request():
        return node.client.post("/chat/completions", body={"model": node.model}, cast_to=object)

    error = refused(openai.BadRequestError, request)
    expect(names(error, "messages"), error.param, error.message)


@check
def refuses_an_unknown_role(node):
    messages = [{"role": "wizard", "content": "hello"}]
    error = refused(openai.BadRequestError, lambda: node.ask(messages=messages))
    expect(names(error, "messages"), error.param, error.message)


@check
def refuses_a_prompt_over_the_context(node):
    error = refused(openai.BadRequestError, lambda: node.ask("fish and phones " * 20_000))
    expect(error.code == "context_length_exceeded", error.code, error.message)


def main():
    """Runs the checks against the node that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_url", nargs="?", default="http://127.0.0.1:52415/v1")
    parser.add_argument("--model", default="demo")
    args = parser.parse_args()
    node = Node(args.base_url, args.model)
    n_failed = 0
    for function in CHECKS:
        name = function.__name__.replace("_", " ")
        try:
            function(node)
        except (AssertionError, openai.OpenAIError, AttributeError, IndexError, ValueError) as error:
            n_failed += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            detail = str(error) or type(error).__name__
            print(f"FAILED  {name}: {detail[:600]} (line {where.lineno})")
        else:
            print(f"ok      {name}")
    print(f"{len(CHECKS) - n_failed} of {len(CHECKS)} checks passed")
    sys.exit(1 if n_failed else 0)


if __name__ == "__main__":
    main()
