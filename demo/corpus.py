"""Reads the corpus and draws conversations from it.

A pattern such as `how do i (add|join) {phone}` stands for many questions: `(a|b|)` chooses one alternative,
`{slot}` takes a word from slots.txt or nouns.txt, and `@define X` or `@command X` opens a family of questions
about X. One draw spells a pattern out, then varies its surface as people do: capitals, punctuation, polite
fillers, a typing error. Everything is driven by one seeded generator.
"""

import math
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent / "corpus"

# Share of a topic in the draw, where it differs from 1: the refusals have to cover the rest of the world.
TOPIC_WEIGHT = {
    "dont_know": 11.0,
    "dont_know_live": 3.0,
    "dont_know_maths": 3.0,
    "dont_know_advice": 3.0,
    "greeting": 1.0,
    "ack": 0.6,
    "help": 1.2,
    "phone_drops": 1.3,
    "add_phone": 1.3,
}

# An opening or ending that a question keeps its meaning with. Written as patterns.
OPENINGS = [
    "(hi|hello|hey|good morning|good evening|hello there)(,|) (shoal,|)",
    "(ok|okay|so|well|right|now|and|but|alright|great|um|listen|thanks)(,|)",
    "(please|pls)(,|)",
    "(sorry|excuse me|pardon)(,|) (but|)",
    "(quick|one more|another|next|simple|stupid|short) question(:|,|-)",
    "(i have a question:|question:|just curious,|just wondering,|one thing:|by the way,|i am curious:)",
    "(i am|i'm) (new|a beginner|confused|not sure)(,|:|.)",
    "(can|could) you (please|) tell me(,|:)",
    "(i have|i own|we have|i've got) (two|three|some|four|a few|several) (old|) (phones|androids|devices)(.|,)",
]
ENDINGS = [
    "(,|) (please|pls|thanks|thank you)",
    "(,|) (exactly|actually|then|again|really|in short)",
    "(, can you explain|, please explain|, any idea|, do you know)",
    "(,|) (shoal|my friend)",
]

# Spellings that keep their capitals when a question is written carefully.
PROPER = {
    word.lower(): word
    for word in (
        "Shoal WiFi Wi-Fi Termux Android GGUF API URL LLM AI GPU CPU NPU OpenAI Rust Python Linux Windows "
        "Llama Qwen TinyLlama Phi Q4_K_M Q8_0 iPhone iPad Samsung ChatGPT I RAM GB USB MIT Apache English "
        "German French Spanish Italian Chinese Japanese Russian WLAN LAN Wikipedia Google Christmas Monday"
    ).split()
}

# Words that a question may hold without meaning anything else.
NOISE = (
    "really actually just now then maybe perhaps please still also even exactly basically simply honestly "
    "generally usually normally quickly possibly probably anyway somehow sometimes always again already today "
    "like um well so very quite rather pretty totally literally currently finally suddenly obviously "
    "little big new nice good great pink blue red green white black shiny dusty beloved poor dear whole entire "
    "single own other certain particular special usual typical average normal real true famous beautiful funny "
    "strange weird lovely modern local main second third next last first extra spare brother's sister's mother's "
    "father's friend's uncle's neighbour's colleague's Anna's Tom's one two three both here there tonight tomorrow "
    "yesterday morning evening weekend guys folks mate sir buddy dude man"
).split()


@dataclass
class Pattern:
    """One pattern: a tree of sequences and choices, with the number of spellings it stands for."""

    source: str
    tree: tuple
    n_spellings: float


@dataclass
class Topic:
    """A topic: one answer and the patterns of the questions that it answers."""

    name: str
    answer: str
    patterns: list[Pattern] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


@dataclass
class Turn:
    """One question, as the user typed it, with the topic that it belongs to."""

    question: str
    topic: str
    answer: str


def parse(source: str, slots: dict[str, tuple]) -> tuple:
    """Parses a pattern into `("text", s)`, `("seq", parts)` and `("any", alternatives)` nodes."""
    pos = 0

    def sequence(stop: str) -> tuple:
        nonlocal pos
        parts, text = [], ""
        while pos < len(source) and source[pos] not in stop:
            char = source[pos]
            if char in "({":
                if text:
                    parts.append(("text", text))
                    text = ""
                parts.append(group() if char == "(" else slot())
            elif char in ")}":
                raise ValueError(f"unmatched '{char}' in pattern: {source}")
            else:
                text += char
                pos += 1
        if text:
            parts.append(("text", text))
        return ("seq", parts)

    def group() -> tuple:
        nonlocal pos
        alternatives = []
        while True:
            pos += 1
            alternatives.append(sequence("|)"))
            if pos == len(source):
                raise ValueError(f"unclosed '(' in pattern: {source}")
            if source[pos] == ")":
                pos += 1
                return ("any", alternatives)

    def slot() -> tuple:
        nonlocal pos
        end = source.index("}", pos)
        name = source[pos + 1 : end]
        pos = end + 1
        if name not in slots:
            raise ValueError(f"unknown slot {{{name}}} in pattern: {source}")
        return slots[name]

    tree = sequence("")
    return tree


def count(tree: tuple) -> float:
    """Counts the spellings of a pattern, repeated ones included."""
    kind, body = tree
    if kind == "text":
        return 1
    counts = [count(part) for part in body]
    return math.prod(counts) if kind == "seq" else sum(counts)


def spell(tree: tuple, rng: random.Random) -> str:
    """Draws one spelling of a pattern."""
    kind, body = tree
    if kind == "text":
        return body
    if kind == "seq":
        return "".join(spell(part, rng) for part in body)
    return spell(rng.choice(body), rng)


def as_regex(tree: tuple) -> str:
    """Writes a pattern as a regular expression over `normalise`d text."""
    kind, body = tree
    if kind == "text":
        return re.escape(normalise(body))
    parts = [as_regex(part) for part in body]
    return "".join(parts) if kind == "seq" else "(?:" + "|".join(sorted(set(parts))) + ")"


def normalise(text: str) -> str:
    """Keeps only letters and digits, in lower case: two questions that differ in nothing else are one."""
    return "".join(char for char in text.lower() if char.isalnum())


def tidy(text: str) -> str:
    """Removes the gaps that empty alternatives leave."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r" ([,.?!:])", r"\1", text)


class Corpus:
    """All topics, and the generator of conversations."""

    def __init__(self):
        self.slots: dict[str, tuple] = {}
        self.families: dict[str, str] = {}
        for name in ("slots.txt", "nouns.txt"):
            self.read_slots(ROOT / name)
        self.topics: dict[str, Topic] = {}
        for name in ("shoal.txt", "smalltalk.txt", "offtopic.txt", "paraphrases.txt"):
            self.read_topics(ROOT / name)
        self.systems = [line for line in read_lines(ROOT / "systems.txt")]
        self.openings = [parse(source, {}) for source in OPENINGS]
        self.endings = [parse(source, {}) for source in ENDINGS]
        self.names = sorted(self.topics)
        self.topic_weights = [self.weight(self.topics[name]) for name in self.names]

    def read_slots(self, path: Path):
        for line in read_lines(path):
            name, _, value = line.partition("=")
            name, value = name.strip(), value.strip()
            if name.startswith("@"):
                self.families[name] = value
            else:
                alternatives = [parse(part.strip(), self.slots) for part in value.split(" | ")]
                self.slots[name] = ("any", alternatives)

    def read_topics(self, path: Path):
        topic = None
        for line in read_lines(path):
            if line.startswith("== "):
                topic = self.topics.setdefault(line[3:], Topic(line[3:], ""))
            elif line.startswith("> "):
                if topic.answer:
                    raise ValueError(f"{path.name}: topic {topic.name} has a second answer")
                topic.answer = line[2:]
            else:
                self.add_pattern(topic, line)

    def add_pattern(self, topic: Topic, line: str):
        share = 1.0
        source = line
        if line.startswith("@"):
            family, _, subject = line.partition(" ")
            alternatives = split_top(self.families[family])
            source = "(" + "|".join(part.replace("%", subject) for part in alternatives) + ")"
            share = 3.0
        tree = parse(source, self.slots)
        n_spellings = count(tree)
        topic.patterns.append(Pattern(line, tree, n_spellings))
        topic.weights.append(share * (1.0 + math.log(n_spellings)))

    def weight(self, topic: Topic) -> float:
        return TOPIC_WEIGHT.get(topic.name, 1.0)

    def turn(self, rng: random.Random) -> Turn:
        """Draws one question and its answer."""
        topic = self.topics[rng.choices(self.names, self.topic_weights)[0]]
        pattern = rng.choices(topic.patterns, topic.weights)[0]
        text = tidy(spell(pattern.tree, rng))
        if not topic.name.startswith(("greeting", "bye", "ack", "thanks")):
            if rng.random() < 0.14:
                text = tidy(spell(rng.choice(self.openings), rng) + " " + text)
            if rng.random() < 0.07:
                text = tidy(text + spell(rng.choice(self.endings), rng))
        return Turn(vary(text, rng), topic.name, topic.answer)

    def conversation(self, rng: random.Random) -> tuple[str | None, list[Turn]]:
        """Draws a system message (mostly none) and one to eight turns (mostly one)."""
        system = rng.choice(self.systems) if rng.random() < 0.2 else None
        n_turns = rng.choices((1, 2, 3, 4, 6, 8), (88, 7, 3, 1, 0.5, 0.5))[0]
        return system, [self.turn(rng) for _ in range(n_turns)]

    def matchers(self) -> list[tuple[str, re.Pattern]]:
        """Compiles every pattern, with the openings and endings, for the test that a question is held out."""
        opening = "(?:" + "|".join(as_regex(tree) for tree in self.openings) + ")?"
        ending = "(?:" + "|".join(as_regex(tree) for tree in self.endings) + ")?"
        return [
            (f"{topic.name}: {pattern.source}", re.compile(opening + as_regex(pattern.tree) + ending))
            for topic in self.topics.values()
            for pattern in topic.patterns
        ]


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a corpus file without blank lines and comments."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def split_top(source: str) -> list[str]:
    """Splits at ` | ` outside parentheses."""
    parts, depth, current = [], 0, ""
    for idx, char in enumerate(source):
        depth += (char == "(") - (char == ")")
        is_bar = char == "|" and depth == 0 and source[idx - 1] == " "
        if is_bar:
            parts.append(current.strip())
            current = ""
        else:
            current += char
    return [*parts, current.strip()]


def vary(text: str, rng: random.Random) -> str:
    """Writes a question as someone might type it: capitals, apostrophes, punctuation, now and then a slip."""
    careful = rng.random() < 0.6
    if careful:
        text = " ".join(capitalise_proper(word) for word in text.split(" "))
        if rng.random() < 0.85:
            text = text[:1].upper() + text[1:]
    else:
        text = text.lower()
    if rng.random() < 0.15:
        text = text.replace("'", "")
    if rng.random() < 0.03:
        text = text.upper()
    for change, chance in ((drop_word, 0.14), (add_word, 0.14), (swap_words, 0.05)):
        if rng.random() < chance:
            text = change(text, rng)
    if rng.random() < 0.10:
        text = mistype(text, rng)
    if text[-1:].isalnum():
        text += rng.choices(("?", "", ".", "!", "??", " ?"), (50, 36, 8, 3, 1.5, 1.5))[0]
    return text


def capitalise_proper(word: str) -> str:
    """Gives a proper name its capitals, whatever punctuation follows it."""
    core = re.sub(r"('s|[,.?!:])+$", "", word)
    return PROPER[core.lower()] + word[len(core) :] if core.lower() in PROPER else word


def drop_word(text: str, rng: random.Random) -> str:
    """Leaves out one word, as hurried people do; mostly a short one, which carries little."""
    words = text.split(" ")
    if len(words) > 3:
        short = [idx for idx, word in enumerate(words) if len(word) <= 4]
        del words[rng.choice(short) if short and rng.random() < 0.8 else rng.randrange(len(words))]
    return " ".join(words)


def swap_words(text: str, rng: random.Random) -> str:
    """Exchanges two neighbouring words."""
    words = text.split(" ")
    if len(words) > 3:
        idx = rng.randrange(len(words) - 1)
        words[idx], words[idx + 1] = words[idx + 1], words[idx]
    return " ".join(words)


def add_word(text: str, rng: random.Random) -> str:
    """Puts in a word that changes nothing, so that the model learns to read past words."""
    words = text.split(" ")
    words.insert(rng.randrange(len(words) + 1), rng.choice(NOISE))
    return " ".join(words)


def mistype(text: str, rng: random.Random) -> str:
    """Makes one typing error in a longer word."""
    places = [idx for idx in range(1, len(text) - 1) if text[idx - 1 : idx + 2].isalpha()]
    if not places:
        return text
    idx = rng.choice(places)
    kind = rng.randrange(4)
    if kind == 0:
        return text[:idx] + text[idx + 1 :]
    if kind == 1:
        return text[:idx] + text[idx] + text[idx:]
    if kind == 2:
        return text[:idx] + text[idx + 1] + text[idx] + text[idx + 2 :]
    return text[:idx] + rng.choice("abcdefghijklmnopqrstuvwxyz") + text[idx + 1 :]


def render_prompt(system: str | None, turns: list[tuple[str, str]], question: str) -> str:
    """Writes a conversation as the chat template does, up to where the next answer begins."""
    text = "" if system is None else f"<|im_start|>system\n{system}<|im_end|>\n"
    for asked, answer in turns:
        text += f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
    return text + f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


if __name__ == "__main__":
    corpus = Corpus()
    rng = random.Random(0)
    total = 0.0
    for topic in corpus.topics.values():
        n_spellings = sum(pattern.n_spellings for pattern in topic.patterns)
        total += n_spellings
        print(f"{topic.name:20} {len(topic.patterns):4} patterns {n_spellings:12.0f} spellings")
    print(f"{len(corpus.topics)} topics, {sum(len(t.patterns) for t in corpus.topics.values())} patterns, {total:.0f} spellings")
    for _ in range(40):
        turn = corpus.turn(rng)
        print(f"  [{turn.topic}] {turn.question}")
