//! Cutting text into words before byte-level BPE merges within them.
//!
//! The cut is defined by a regular expression with a look-ahead; here it is a scanner that looks at each character a bounded number
//! of times, so that no text makes it slow:
//!
//! ```text
//! (?i:'s|'t|'re|'ve|'m|'ll|'d) | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N}{1,n} | ?[^\s\p{L}\p{N}]+[\r\n]* | \s*[\r\n]+ | \s+(?!\S) | \s+
//! ```
//!
//! with `n = 3` for `llama-bpe` (Llama 3) and `n = 1` for `qwen2`.

use shoal_gguf::Metadata;
use unicode_general_category::{GeneralCategory, get_general_category};

use crate::Error;

/// A pre-tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PreTokenizer {
    /// Most digits of a word.
    n_digits: usize,
}

/// What a character is to the scanner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    /// A carriage return or line feed.
    Newline,
    /// Any other white space.
    Space,
    Other,
}

impl Class {
    fn of(character: char) -> Self {
        use GeneralCategory as G;

        match character {
            'a'..='z' | 'A'..='Z' => Self::Letter,
            '0'..='9' => Self::Number,
            '\r' | '\n' => Self::Newline,
            _ if character.is_whitespace() => Self::Space,
            _ if character.is_ascii() => Self::Other,
            _ => match get_general_category(character) {
                G::UppercaseLetter
                | G::LowercaseLetter
                | G::TitlecaseLetter
                | G::ModifierLetter
                | G::OtherLetter => Self::Letter,
                G::DecimalNumber | G::LetterNumber | G::OtherNumber => Self::Number,
                _ => Self::Other,
            },
        }
    }

    fn is_white(self) -> bool {
        matches!(self, Self::Space | Self::Newline)
    }
}

impl PreTokenizer {
    /// Those that are supported, for error messages.
    pub(crate) const SUPPORTED: &'static str = "llama-bpe, llama3, llama-v3, qwen2";

    /// The one that a model's metadata name.
    pub(crate) fn from_metadata(metadata: &Metadata) -> Result<Self, Error> {
        const PRE: &str = "tokenizer.ggml.pre";
        let name = metadata.str(PRE)?.ok_or(Error::Missing { key: PRE })?;
        Self::named(name).ok_or_else(|| Error::Unsupported {
            key: PRE,
            expected: Self::SUPPORTED,
            found: name.to_owned(),
        })
    }

    /// The pre-tokenizer of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "llama-bpe" | "llama3" | "llama-v3" => Some(Self { n_digits: 3 }),
            "qwen2" => Some(Self { n_digits: 1 }),
            _ => None,
        }
    }

    /// Whether a word that is a token is never cut into others, as Llama 3's tokenizer has it.
    pub(crate) fn ignores_merges(self) -> bool {
        self.n_digits == 3
    }

    /// Cuts text into words; together they are the text.
    pub(crate) fn words(self, text: &str) -> impl Iterator<Item = &str> {
        let mut rest = text;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (word, after) = rest.split_at(self.word_len(rest));
            rest = after;
            Some(word)
        })
    }

    /// Length in bytes of the first word of a text that is not empty.
    fn word_len(self, text: &str) -> usize {
        let mut chars = text.chars();
        let first = chars.next().expect("not empty");
        let second = chars.next();
        if let Some(len) = contraction_len(text) {
            return len;
        }
        let class = Class::of(first);
        let next_class = second.map(Class::of);
        // [^\r\n\p{L}\p{N}]?\p{L}+
        let may_lead = !matches!(class, Class::Newline | Class::Number | Class::Letter);
        if class == Class::Letter || (may_lead && next_class == Some(Class::Letter)) {
            let lead = first.len_utf8();
            return lead + run_len(&text[lead..], |class| class == Class::Letter);
        }
        if class == Class::Number {
            let digits = text.chars().take(self.n_digits);
            let digits = digits.take_while(|&character| Class::of(character) == Class::Number);
            return digits.map(char::len_utf8).sum();
        }
        // ?[^\s\p{L}\p{N}]+[\r\n]*
        let lead = usize::from(first == ' ' && next_class == Some(Class::Other));
        if class == Class::Other || lead == 1 {
            let others = lead + run_len(&text[lead..], |class| class == Class::Other);
            return others + run_len(&text[others..], |class| class == Class::Newline);
        }
        white_len(text)
    }
}

/// Length of the leading characters of a class.
fn run_len(text: &str, of_class: impl Fn(Class) -> bool) -> usize {
    let mut chars = text.char_indices();
    chars.find(|&(_, character)| !of_class(Class::of(character))).map_or(text.len(), |(at, _)| at)
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
fn contraction_len(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('\'')?.as_bytes();
    let lower = |i: usize| rest.get(i).map(u8::to_ascii_lowercase);
    match (lower(0)?, lower(1)) {
        (b's' | b't' | b'm' | b'd', _) => Some(2),
        (b'r', Some(b'e')) | (b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(3),
        _ => None,
    }
}

/// `\s*[\r\n]+ | \s+(?!\S) | \s+`, at white space.
fn white_len(text: &str) -> usize {
    let len = run_len(text, Class::is_white);
    let white = &text[..len];
    if let Some(last_newline) = white.rfind(['\r', '\n']) {
        return last_newline + 1;
    }
    let last = white.chars().next_back().map_or(0, char::len_utf8);
    // Before a word the last space belongs to the word.
    if len < text.len() && len > last { len - last } else { len }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, text: &str, expected: &[&str]) {
        let words: Vec<&str> = PreTokenizer::named(name).expect("supported").words(text).collect();
        assert_eq!(words, expected);
    }

    #[test]
    fn digits_go_in_threes_or_alone() {
        check("llama-bpe", "12345 678", &["123", "45", " ", "678"]);
        check("qwen2", "123 4", &["1", "2", "3", " ", "4"]);
    }

    #[test]
    fn contractions_are_words() {
        check("qwen2", "I'm you'LL 'tis 'x", &["I", "'m", " you", "'LL", " '", "tis", " '", "x"]);
    }

    #[test]
    fn a_space_leads_the_word_after_it() {
        check("qwen2", "  hello  world ", &[" ", " hello", " ", " world", " "]);
        check("qwen2", "a\u{a0}b \u{3000}c", &["a", "\u{a0}b", " ", "\u{3000}c"]);
        check("qwen2", "x  !?\n\ny", &["x", " ", " !?\n\n", "y"]);
    }

    #[test]
    fn line_ends_close_white_space() {
        check("qwen2", "a \r\n\r\n  b", &["a", " \r\n\r\n", " ", " b"]);
        check("qwen2", "\t\n \n", &["\t\n \n"]);
    }

    #[test]
    fn scripts_and_marks() {
        check("qwen2", "你好，世界", &["你好", "，世界"]);
        check("qwen2", "e\u{301}te 🦀🦀!", &["e", "\u{301}te", " 🦀🦀!"]);
        check("qwen2", "Ⅻ½x", &["Ⅻ", "½", "x"]);
    }
}
