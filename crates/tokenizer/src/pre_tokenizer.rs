//! Cutting text into words before byte-level BPE merges within them.
//!
//! A pre-tokenizer is a list of *cuts*, regular expressions applied one after another: each cuts the pieces that the ones before it
//! left into its matches and what lies between them. The expressions are those of the models' own `tokenizer.json`; GGUF names them
//! (`tokenizer.ggml.pre`), and llama.cpp's `llama-vocab.cpp` lists which name means which.
//!
//! Nearly all of them end in `\s+(?!\S)|\s+`: white space before a word leaves its last character to the word. An engine without
//! look-ahead takes linear time whatever the text; so that alternative is [`WHITE`] here, and the last character is given back
//! afterwards.

use regex::Regex;
use shoal_gguf::Metadata;

use crate::Error;

/// English contractions in either case.
const CONTRACTION: &str = "(?i-u:'s|'t|'re|'ve|'m|'ll|'d)";
/// Letters, led by any character that is no letter, number or line end.
const LED_LETTERS: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+";
/// The same with the marks that belong to letters.
const LED_MARKED: &str = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+";
/// A word that begins with capitals and goes on in small letters.
const SMALL_WORD: &str =
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+";
/// A word in capitals, as far as it is in capitals.
const CAPITAL_WORD: &str =
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*";
const DIGIT: &str = r"\p{N}";
const THREE_DIGITS: &str = r"\p{N}{1,3}";
/// Signs, led by a space, with the line ends after them.
const SIGNS: &str = r" ?[^\s\p{L}\p{N}]+[\r\n]*";
const SIGNS_AND_SLASHES: &str = r" ?[^\s\p{L}\p{N}]+[\r\n/]*";
/// White space up to its last line end.
const LINES: &str = r"\s*[\r\n]+";
/// White space; before a word all but its last character. See the module.
const WHITE: &str = r"\s+";

/// GPT-2's expression.
const GPT2: Alternatives =
    &["'s|'t|'re|'ve|'m|'ll|'d", r" ?\p{L}+", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+", WHITE];

/// What may match at a place; the first that does counts.
type Alternatives = &'static [&'static str];

/// A pre-tokenizer as the table has it.
struct Known {
    names: &'static [&'static str],
    cuts: &'static [Alternatives],
    /// Whether a word that is a token is never made of others, whatever the merges say.
    ignores_merges: bool,
    /// Whether texts begin with the token for it, if the file does not say.
    adds_bos: bool,
}

impl Known {
    const fn new(names: &'static [&'static str], cuts: &'static [Alternatives]) -> Self {
        Self { names, cuts, ignores_merges: false, adds_bos: false }
    }
}

const KNOWN: &[Known] = &[
    Known {
        ignores_merges: true,
        adds_bos: true,
        ..Known::new(
            &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"],
            &[LLAMA3],
        )
    },
    Known::new(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[LLAMA3]),
    Known { ignores_merges: true, ..Known::new(&["glm4"], &[LLAMA3]) },
    Known::new(
        &["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        &[&[CONTRACTION, LED_LETTERS, DIGIT, SIGNS, LINES, WHITE]],
    ),
    Known::new(
        &["qwen35"],
        &[&[CONTRACTION, LED_MARKED, DIGIT, r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", LINES, WHITE]],
    ),
    Known::new(
        &["seed-coder"],
        &[&[CONTRACTION, LED_LETTERS, DIGIT, r" ?[^\s\p{L}\p{N}\r\n]+", LINES, WHITE]],
    ),
    Known::new(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        &[&[CONTRACTION, LED_LETTERS, DIGIT, SIGNS, r"\s*[\r\n]", WHITE]],
    ),
    Known::new(
        &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "exaone4",
        ],
        &[GPT2],
    ),
    Known::new(
        &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"],
        &[&[DIGIT], GPT2],
    ),
    Known::new(&["falcon"], &[&[r"[\p{P}$+<=>^~|`]+"], GPT2, &["[0-9][0-9][0-9]"]]),
    Known::new(&["default"], &[&[r"[\p{P}$+<=>^~|]+"], GPT2, &[r"\p{N}+"], &["[0-9][0-9][0-9]"]]),
    Known {
        ignores_merges: true,
        adds_bos: true,
        ..Known::new(
            &["tekken"],
            &[&[SMALL_WORD, CAPITAL_WORD, DIGIT, SIGNS_AND_SLASHES, LINES, WHITE]],
        )
    },
    Known::new(
        &["gpt-4o", "llama4"],
        &[&[GPT4O_SMALL, GPT4O_CAPITAL, THREE_DIGITS, SIGNS_AND_SLASHES, LINES, WHITE]],
    ),
    Known::new(
        &["deepseek-llm"],
        &[
            &[r"[\r\n]"],
            &[DEEPSEEK_LETTERS],
            &[r"\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+"],
            &[r"\s+$"],
            &[DEEPSEEK_CJK],
            &[r"\p{N}+"],
        ],
    ),
    Known::new(
        &["deepseek-coder"],
        &[&[r"[\r\n]"], &[r"\s?\p{L}+"], &[r"\s?\p{P}+"], &[DEEPSEEK_CJK], &[DIGIT]],
    ),
    Known::new(
        &["deepseek-v3", "hunyuan-dense"],
        &[
            &[THREE_DIGITS],
            &[r"[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+"],
            &[
                r"[!-/:-@\[-`{-~][A-Za-z]+",
                r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
                r" ?[\p{P}\p{S}]+[\r\n]*",
                LINES,
                WHITE,
            ],
        ],
    ),
];

const LLAMA3: Alternatives = &[CONTRACTION, LED_LETTERS, THREE_DIGITS, SIGNS, LINES, WHITE];
const GPT4O_SMALL: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i-u:'s|'t|'re|'ve|'m|'ll|'d)?";
const GPT4O_CAPITAL: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i-u:'s|'t|'re|'ve|'m|'ll|'d)?";
/// Letters with case, of the scripts that the tokenizer's authors listed: the ranges after the minus are not among them.
const DEEPSEEK_LETTERS: &str = r"\s?[[\p{Lu}\p{Ll}\p{Lt}]--[\u{560}-\u{588}\u{10c7}-\u{10ff}\u{1c80}-\u{1c8a}\u{2d00}-\u{2d2d}\u{a790}-\u{a7fa}\u{ab30}-\u{ab68}\u{10570}-\u{105bc}\u{16e40}-\u{16e7f}\u{1d400}-\u{1df1e}]]+";
const DEEPSEEK_CJK: &str = r"[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";

/// A pre-tokenizer.
#[derive(Debug)]
pub(crate) struct PreTokenizer {
    cuts: Vec<Cut>,
    ignores_merges: bool,
    adds_bos: bool,
}

/// One of the expressions.
#[derive(Debug)]
struct Cut {
    regex: Regex,
    /// Whether white space leaves its last character to the word after it.
    is_white_shared: bool,
    /// Whether white space that ends in a line end was matched by an alternative of its own, and stays whole.
    are_lines_whole: bool,
}

impl PreTokenizer {
    /// Checks that a model's pre-tokenizer is known.
    pub(crate) fn check(metadata: &Metadata) -> Result<(), Error> {
        known(metadata).map(drop)
    }

    /// The one that a model's metadata name.
    pub(crate) fn from_metadata(metadata: &Metadata) -> Result<Self, Error> {
        known(metadata).map(Self::new)
    }

    fn new(known: &Known) -> Self {
        Self {
            cuts: known.cuts.iter().copied().map(Cut::new).collect(),
            ignores_merges: known.ignores_merges,
            adds_bos: known.adds_bos,
        }
    }

    /// Whether a word that is a token is never cut into others.
    pub(crate) fn ignores_merges(&self) -> bool {
        self.ignores_merges
    }

    /// Whether texts begin with the token for it, if the file does not say.
    pub(crate) fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Cuts text into words; together they are the text.
    pub(crate) fn words<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut pieces = vec![text];
        for cut in &self.cuts {
            let mut words = Vec::with_capacity(pieces.len());
            for piece in pieces {
                cut.apply(piece, &mut words);
            }
            pieces = words;
        }
        pieces
    }
}

fn known(metadata: &Metadata) -> Result<&'static Known, Error> {
    const PRE: &str = "tokenizer.ggml.pre";
    let name = metadata.str(PRE)?.ok_or(Error::Missing { key: PRE })?;
    named(name).ok_or_else(|| {
        let names: Vec<&str> = KNOWN.iter().flat_map(|known| known.names).copied().collect();
        Error::Unsupported { key: PRE, expected: names.join(", "), found: name.to_owned() }
    })
}

fn named(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.names.contains(&name))
}

impl Cut {
    fn new(alternatives: Alternatives) -> Self {
        Self {
            regex: Regex::new(&alternatives.join("|")).expect("a test compiles all of them"),
            is_white_shared: alternatives.contains(&WHITE),
            are_lines_whole: alternatives.iter().any(|part| part.starts_with(r"\s*[\r\n]")),
        }
    }

    /// Appends the words of a piece.
    fn apply<'t>(&self, piece: &'t str, words: &mut Vec<&'t str>) {
        let mut at = 0;
        while let Some(found) = self.regex.find_at(piece, at) {
            if found.start() > at {
                words.push(&piece[at..found.start()]);
            }
            let end = found.start() + self.kept_len(found.as_str(), found.end() < piece.len());
            words.push(&piece[found.start()..end]);
            at = end;
        }
        if at < piece.len() {
            words.push(&piece[at..]);
        }
    }

    /// How much of a match is the word: all but the last character of white space with something behind it.
    fn kept_len(&self, found: &str, is_followed: bool) -> usize {
        let is_white = || found.chars().all(char::is_whitespace);
        let is_whole = self.are_lines_whole && found.ends_with(['\r', '\n']);
        if !self.is_white_shared || !is_followed || is_whole || !is_white() {
            return found.len();
        }
        let last = found.chars().next_back().map_or(0, char::len_utf8);
        if found.len() > last { found.len() - last } else { found.len() }
    }
}

#[cfg(test)]
mod tests;
