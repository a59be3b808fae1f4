//! Byte-pair encoding in its simplest form, on a few sentences: enough for prompts to have tokens of several
//! letters.

use std::collections::BTreeMap;

/// What the generated vocabularies are trained on.
const TEXT: &str = "\
The phones in the drawer become one machine. Each phone holds some of the layers of the model, and the \
phones hand the activations to each other over the network. The first phone turns the text into tokens, \
the last phone chooses the next token, and the answer comes back one token at a time. When a phone gets \
hot or its battery runs low, its layers move to another phone and the answer goes on. When the network is \
slow, the answer is slow: every token crosses every link once. Put the phones on the same access point, \
close to it, and plug them in. A model that fits on one phone is fastest on one phone. A model that does \
not fit needs two or more. What is the name of this machine? How do I add another phone to it? How many \
phones can there be? Why is the answer so slow? What happens when one of them is lost? The same question \
with the same seed gives the same answer, with one phone or with three. Nothing has to be installed but \
one program, and nobody else can read what the phones say to each other. Hello, good morning, thank you, \
please tell me a story about a shoal of small fish in the sea that swim together and never lose one another.";

/// The byte values in the order of GPT-2's vocabulary: printable ones first.
pub(super) fn byte_order() -> impl Iterator<Item = u8> {
    (0..=255)
        .filter(|&byte| is_printable(byte))
        .chain((0..=255).filter(|&byte| !is_printable(byte)))
}

/// The character that stands for a byte in GPT-2's vocabulary: itself, or the next one from U+0100.
pub(super) fn byte_char(byte: u8) -> char {
    if is_printable(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&other| !is_printable(other)).count();
    let code = 0x100 + u32::try_from(rank).expect("a rank of bytes is below 256");
    char::from_u32(code).expect("code points from U+0100 to U+0200 are characters")
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// Returns pairs of pieces in the order in which they are worth merging: the most frequent first, of equally
/// frequent ones the first in alphabetical order.
///
/// - `symbols`: cuts a word into its smallest pieces
pub(super) fn train(symbols: impl Fn(&str) -> Vec<char>) -> Vec<(String, String)> {
    let mut words: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    for word in TEXT.split_whitespace() {
        let pieces = symbols(word).into_iter().map(String::from).collect();
        *words.entry(pieces).or_default() += 1;
    }
    let mut merges = Vec::new();
    loop {
        let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (pieces, n) in &words {
            for pair in pieces.windows(2) {
                *counts.entry((&pair[0], &pair[1])).or_default() += n;
            }
        }
        let best = counts.into_iter().rev().max_by_key(|&(_, n)| n);
        let Some(((left, right), 2..)) = best else { return merges };
        let (left, right) = (left.to_owned(), right.to_owned());
        words = words.into_iter().map(|(pieces, n)| (merged(pieces, &left, &right), n)).collect();
        merges.push((left, right));
    }
}

fn merged(pieces: Vec<String>, left: &str, right: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match out.last_mut() {
            Some(last) if last == left && piece == right => last.push_str(&piece),
            _ => out.push(piece),
        }
    }
    out
}
