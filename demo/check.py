"""Asks the demonstration model questions that are not in its corpus, and counts the answers that are right.

    python check.py                                  # the file in the repository, by llama.cpp on the CPU
    python check.py --url http://127.0.0.1:52415/v1  # a running Shoal
    python check.py --held-out-only                  # no model: only that no question is in the corpus

questions.json names for every question its topic, and for every topic the phrases of which a right answer
holds at least one (compared without regard to case). Decoding is greedy. Exit status: 0 if at least 80 % are
right, 1 otherwise, 2 if a question is in the corpus.
"""

import argparse
import json
import sys
import urllib.request
from pathlib import Path

from corpus import Corpus, normalise, render_prompt

HERE = Path(__file__).parent
MODEL = HERE.parent / "crates" / "hub" / "demo" / "shoal-demo.gguf"
RIGHT_SHARE_MIN = 0.8
MAX_TOKENS = 160


def in_corpus(questions: list[dict], corpus: Corpus) -> list[tuple[str, str]]:
    """Finds the questions that a pattern of the corpus can spell, compared by letters and digits only."""
    matchers = corpus.matchers()
    found = []
    for item in questions:
        text = normalise(item["question"])
        found += [(item["question"], source) for source, matcher in matchers if matcher.fullmatch(text)][:1]
    return found


def llama_cpp(path: Path, threads: int):
    """Returns a function that answers by llama.cpp; the prompt is rendered here, as in training."""
    from llama_cpp import Llama

    llm = Llama(str(path), n_ctx=1024, n_threads=threads, verbose=False)

    def ask(question: str) -> str:
        # The model's newline and markers are plain text here: `tokenize` with `special` reads them as tokens.
        prompt = llm.tokenize(render_prompt(None, [], question).encode(), add_bos=False, special=True)
        out = llm.create_completion(prompt, max_tokens=MAX_TOKENS, temperature=0.0, stop=["<|im_end|>"])
        return out["choices"][0]["text"].strip()

    return ask


def http(url: str, model: str):
    """Returns a function that answers by an OpenAI-compatible server."""

    def ask(question: str) -> str:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }
        request = urllib.request.Request(
            url.rstrip("/") + "/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)["choices"][0]["message"]["content"].strip()

    return ask


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="GGUF file for llama.cpp")
    parser.add_argument("--url", help="base URL of a running server, which then answers instead of llama.cpp")
    parser.add_argument("--name", default="demo", help="name of the model at that server")
    parser.add_argument("--questions", type=Path, default=HERE / "questions.json", help="file of questions")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of llama.cpp")
    parser.add_argument("--held-out-only", action="store_true", help="only test that the questions are held out")
    parser.add_argument("--quiet", action="store_true", help="print the total only")
    args = parser.parse_args()

    spec = json.loads(args.questions.read_text(encoding="utf-8"))
    if isinstance(spec, list):
        checks = json.loads((HERE / "questions.json").read_text(encoding="utf-8"))["checks"]
        questions = spec
    else:
        checks, questions = spec["checks"], spec["questions"]
    found = in_corpus(questions, Corpus())
    for question, source in found:
        print(f"in the corpus: {question!r} by {source!r}")
    if found:
        return 2
    print(f"{len(questions)} questions, none of them in the corpus")
    if args.held_out_only:
        return 0

    ask = http(args.url, args.name) if args.url else llama_cpp(args.model, args.threads)
    n_right = 0
    for item in questions:
        answer = ask(item["question"])
        is_right = any(phrase.lower() in answer.lower() for phrase in checks[item["topic"]])
        n_right += is_right
        if not is_right and not args.quiet:
            print(f"wrong [{item['topic']}] {item['question']}\n      {answer}")
    share = n_right / len(questions)
    print(f"right: {n_right} of {len(questions)} ({share:.1%})")
    return 0 if share >= RIGHT_SHARE_MIN else 1


if __name__ == "__main__":
    sys.exit(main())
