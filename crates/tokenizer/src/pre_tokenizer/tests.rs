//! Words of the families, by hand; whole vocabularies are the tokenizer's tests.

use super::*;

#[track_caller]
fn check(name: &str, text: &str, expected: &[&str]) {
    let pre_tokenizer = PreTokenizer::new(named(name).expect("supported"));
    assert_eq!(pre_tokenizer.words(text), expected, "{name}");
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

#[test]
fn every_expression_compiles_and_keeps_every_character() {
    let text = " It's  12345 x²\t\r\n\n Größe! 你好，世界 カタカナ 한글 e\u{301} $+= `a` <b>|c \u{a0} ünïCode HTTPServer  ";
    for known in KNOWN {
        let pre_tokenizer = PreTokenizer::new(known);
        assert_eq!(pre_tokenizer.words(text).concat(), text, "{:?}", known.names);
        assert_eq!(pre_tokenizer.words(""), [] as [&str; 0], "{:?}", known.names);
    }
}

#[test]
fn no_name_is_listed_twice() {
    let mut names: Vec<&str> = KNOWN.iter().flat_map(|known| known.names).copied().collect();
    let n_names = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), n_names);
}

#[test]
fn gpt_2_leaves_the_last_line_end_to_nobody() {
    check("gpt-2", "a\n\n b  \n", &["a", "\n\n", " b", "  \n"]);
    check("gpt-2", "a\n\nb", &["a", "\n", "\n", "b"]);
    check("gpt-2", "1234 'S's", &["1234", " '", "S", "'s"]);
}

#[test]
fn cuts_apply_one_after_another() {
    check("starcoder", "x12 y", &["x", "1", "2", " y"]);
    check("falcon", "a==1234!", &["a", "==", "123", "4", "!"]);
    check(
        "deepseek-llm",
        "Hi\nПривет 你好a 12",
        &["Hi", "\n", "Привет", " ", "你好", "a", " ", "12"],
    );
    check("deepseek-v3", "1234 .get", &["123", "4", " .", "get"]);
}

#[test]
fn words_are_cut_where_their_case_changes() {
    check("tekken", "HTTPServer fooBar", &["HTTPServer", " foo", "Bar"]);
    check("gpt-4o", "don't STOP1234", &["don't", " STOP", "123", "4"]);
}

#[test]
fn long_runs_take_linear_time() {
    // Quadratic time would be minutes.
    for known in KNOWN {
        let pre_tokenizer = PreTokenizer::new(known);
        for unit in ["a", " ", "\n", "1", "!", "\u{301}", "' ", " \n"] {
            let text = unit.repeat((1 << 17) / unit.len());
            let words = pre_tokenizer.words(&text);
            assert_eq!(words.iter().map(|word| word.len()).sum::<usize>(), text.len());
        }
    }
}
