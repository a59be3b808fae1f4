//! Real vocabularies against recorded ids, and small ones by hand.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use shoal_gguf::{Gguf, Writer};

use super::*;
use crate::{ChatMessage, ChatTemplate, byte_level};

/// A file beside the project, or in the directory that `SHOAL_VOCABS` names; `None` if it is in neither.
fn shared(name: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let others = std::env::var_os("SHOAL_VOCABS").map(PathBuf::from);
    let found = others.into_iter().chain([beside.join("tokenizers"), beside.join("templates")]);
    let found = found.map(|directory| directory.join(name)).find(|path| path.exists());
    if found.is_none() {
        eprintln!("SKIPPED: {name} is neither beside the project nor in SHOAL_VOCABS");
    }
    found
}

fn open(bytes: Vec<u8>) -> Gguf {
    Gguf::from_static(Box::leak(bytes.into_boxed_slice())).expect("a valid file")
}

#[track_caller]
fn conforms(name: &str) {
    let Some(path) = shared(&format!("ggml-vocab-{name}.gguf")) else { return };
    let gguf = Gguf::open(&path).expect("a valid file");
    let tokenizer = Tokenizer::from_metadata(gguf.metadata()).expect("a supported vocabulary");
    let read = |extension: &str| {
        std::fs::read_to_string(format!("{}.{extension}", path.display())).expect("beside the file")
    };
    let (inputs, outputs) = (read("inp"), read("out"));
    let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
    let mut n_checked = 0;
    for (input, output) in inputs.iter().zip(outputs.lines()) {
        let expected: Vec<TokenId> =
            output.split_whitespace().map(|id| id.parse().expect("an id")).collect();
        let got = tokenizer.encode(input, AddSpecial::No, ParseSpecial::No);
        assert_eq!(got, expected, "{input:?}");
        n_checked += 1;
    }
    assert!(n_checked > 40, "{n_checked} texts");
}

#[test]
fn conforms_on_the_vocabularies_of_llama_and_qwen() {
    for name in ["llama-spm", "llama-bpe", "qwen2"] {
        conforms(name);
    }
}

/// These are part of llama.cpp's source (`models/`), and too large to lie beside the project.
#[test]
fn conforms_on_the_vocabularies_of_other_families() {
    let names = ["command-r", "deepseek-coder", "deepseek-llm", "falcon", "gpt-2", "mpt", "phi-3"];
    for name in names.into_iter().chain(["qwen35", "refact", "starcoder"]) {
        conforms(name);
    }
}

/// A byte-level vocabulary with a few merges and special tokens.
fn small_bpe(pre: &str) -> Tokenizer {
    let mut tokens: Vec<String> =
        (0..=255).map(|byte| byte_level::char_of(byte).to_string()).collect();
    let merges = ["h e", "l l", "he ll", "hell o", "Ġ hello"];
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    tokens.extend(["<|im_end|>", "<|im_start|>", "[USER]"].map(String::from));
    let mut types = vec![1i32; tokens.len()];
    let n = types.len();
    types[n - 3..].copy_from_slice(&[3, 3, 4]);
    let mut bytes = Vec::new();
    Writer::new()
        .metadata("general.architecture", "llama")
        .metadata("tokenizer.ggml.model", "gpt2")
        .metadata("tokenizer.ggml.pre", pre)
        .metadata("tokenizer.ggml.tokens", tokens)
        .metadata("tokenizer.ggml.token_type", types)
        .metadata("tokenizer.ggml.merges", merges.map(String::from).to_vec())
        .metadata("tokenizer.ggml.eos_token_id", u32::try_from(n - 3).expect("small"))
        .write(&mut bytes)
        .expect("valid");
    Tokenizer::from_metadata(open(bytes).metadata()).expect("supported")
}

#[test]
fn merges_in_the_order_of_training() {
    let tokenizer = small_bpe("qwen2");
    let encode = |text| tokenizer.encode(text, AddSpecial::Yes, ParseSpecial::No);
    assert_eq!(encode("hello hello"), [259, 260]);
    assert_eq!(encode("helll"), [258, 108]);
    assert_eq!(encode(""), [] as [TokenId; 0]);
}

#[test]
fn control_tokens_are_text_unless_they_are_asked_for() {
    let tokenizer = small_bpe("qwen2");
    let text = "<|im_start|>hello<|im_end|>[USER]";
    assert_eq!(tokenizer.encode(text, AddSpecial::No, ParseSpecial::Yes), [262, 259, 261, 263]);
    let plain = tokenizer.encode(text, AddSpecial::No, ParseSpecial::No);
    assert!(!plain.contains(&262) && plain.ends_with(&[263]));
    assert_eq!(tokenizer.decode(&plain), text);
    assert!(tokenizer.is_end_of_generation(261) && !tokenizer.is_end_of_generation(262));
}

#[test]
fn refuses_what_it_does_not_know_by_name() {
    let mut bytes = Vec::new();
    Writer::new()
        .metadata("tokenizer.ggml.model", "bert")
        .metadata("tokenizer.ggml.tokens", vec![String::from("a")])
        .write(&mut bytes)
        .expect("valid");
    let error = Tokenizer::from_metadata(open(bytes).metadata()).expect_err("unknown");
    assert_eq!(
        error.to_string(),
        "metadata key tokenizer.ggml.model: expected one of gpt2, llama, found \"bert\""
    );
}

#[test]
fn long_words_take_no_longer_per_letter() {
    // A quadratic algorithm would not end within a minute.
    for pre in ["qwen2", "llama-bpe"] {
        let tokenizer = small_bpe(pre);
        for text in ["l".repeat(100_000), " ".repeat(100_000), "hell ".repeat(20_000)] {
            let tokens = tokenizer.encode(&text, AddSpecial::No, ParseSpecial::No);
            assert_eq!(tokenizer.decode(&tokens), text);
        }
    }
}

proptest! {
    #[test]
    fn decoding_gives_the_text_back(text in ".{0,60}|[ \n\r\ta-c'0-9é½🦀]{0,60}") {
        for pre in ["qwen2", "llama-bpe"] {
            let tokenizer = small_bpe(pre);
            let tokens = tokenizer.encode(&text, AddSpecial::No, ParseSpecial::No);
            prop_assert_eq!(tokenizer.decode(&tokens), text.as_str());
            // Streaming gives whole characters only.
            let mut detokenizer = tokenizer.detokenizer();
            let mut streamed = String::new();
            for &token in &tokens {
                let piece = detokenizer.push(token);
                prop_assert!(!piece.contains(char::REPLACEMENT_CHARACTER) || text.contains(char::REPLACEMENT_CHARACTER));
                streamed.push_str(&piece);
            }
            prop_assert_eq!(streamed + &detokenizer.finish(), text.as_str());
        }
    }
}

#[test]
fn bytes_that_are_no_text_become_replacement_characters() {
    let tokenizer = small_bpe("qwen2");
    let byte =
        |byte: u8| tokenizer.vocab.id(&byte_level::char_of(byte).to_string()).expect("there");
    assert_eq!(
        tokenizer.decode(&[byte(0xff), byte(b'a'), byte(0xe2), byte(0x82)]),
        "\u{fffd}a\u{fffd}"
    );
}

/// Conversations and what Jinja2 makes of them; `fixtures/README.md` says how they were made.
#[test]
fn templates_render_as_jinja2_does() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/templates.json");
    let fixtures = std::fs::read_to_string(fixtures).expect("in the repository");
    let fixtures: serde_json::Value = serde_json::from_str(&fixtures).expect("JSON");
    for case in fixtures.as_array().expect("a list") {
        let text = |key: &str| case[key].as_str().expect("text");
        let Some(path) = shared(&format!("templates/{}", text("template"))) else { return };
        let source = std::fs::read_to_string(path).expect("readable");
        let template = ChatTemplate::new(&source, text("bos"), text("eos")).expect("it parses");
        let message = |message: &serde_json::Value| {
            let text = |key: &str| message[key].as_str().expect("text").to_owned();
            ChatMessage::new(text("role"), text("content"))
        };
        let messages: Vec<ChatMessage> =
            case["messages"].as_array().expect("a list").iter().map(message).collect();
        let prompt = case["add_generation_prompt"].as_bool().expect("a flag");
        let rendered = template.render(&messages, prompt, case["now_s"].as_u64()).expect("renders");
        assert_eq!(rendered, text("expected"), "{}", text("template"));
    }
}
