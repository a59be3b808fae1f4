//! The built-in cards, and what is said of bad ones.

use super::*;

#[test]
fn every_built_in_card_is_plausible() {
    let catalogue = Catalogue::builtin();
    for card in catalogue.cards() {
        assert_eq!(card.check(), Ok(()), "{}", card.id);
        assert_eq!(card.short, card.short.to_lowercase(), "{}", card.id);
        assert_eq!(card.quants.is_empty(), card.format == CardFormat::Mlx, "{}", card.id);
        let same = |other: &&Card| other.id == card.id || other.short == card.short;
        assert_eq!(catalogue.cards().iter().filter(same).count(), 1, "{} twice", card.id);
        for listed in &card.quants {
            let bits = u64::from(listed.quant.millibits_per_weight().expect("a known label"));
            let expected = card.n_weights() * bits / 8000;
            let ratio = listed.n_bytes * 100 / expected;
            // Rows that are no multiple of a K-quant's block of 256 get a larger type.
            let ratio_max = if card.n_embd % 256 == 0 { 115 } else { 160 };
            assert!((90..=ratio_max).contains(&ratio), "{} {}: {ratio} %", card.id, listed.quant);
        }
    }
    for family in catalogue.families() {
        let defaults = catalogue.cards().iter().filter(|c| c.family == family && c.is_default);
        assert_eq!(defaults.count(), 1, "{family}");
    }
}

#[test]
fn parameters_follow_from_the_widths() {
    // Norms and biases, which are not counted, are less than a thousandth; q is as wide as the residual stream, or else a
    // multiple of k that the card does not tell.
    let is_near = |n: u64, n_params: u64| n.abs_diff(n_params) * 1000 <= n_params;
    for card in Catalogue::builtin().cards() {
        let [layers, width, kv, ff, vocab] =
            [card.n_layer, card.n_embd, card.n_embd_kv, card.n_ff, card.n_vocab].map(u64::from);
        let q_widths = match card.architecture.as_str() {
            // Some of its layers are convolutions, which no field describes.
            "lfm2" => continue,
            "gemma2" | "gemma3" | "qwen3" => (1..=16).map(|n| n * kv).collect(),
            _ => vec![width],
        };
        let (n, embedding) = (card.n_params, vocab * width);
        let sums: Vec<u64> = q_widths
            .iter()
            .map(|q| layers * (2 * width * q + 2 * width * kv + 3 * width * ff) + embedding)
            .collect();
        let is_tied = sums.iter().any(|&sum| is_near(sum, n));
        let is_untied = sums.iter().any(|&sum| is_near(sum + embedding, n));
        assert!(is_tied || is_untied, "{}: expected one of {sums:?}, or {embedding} more", card.id);
        if let Some(stored) = card.n_weights_stored {
            assert!(is_tied && stored == n + embedding, "{}: {stored}", card.id);
        }
    }
}

#[test]
fn the_first_seven_are_there() {
    for id in [
        "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF",
        "Qwen/Qwen2.5-0.5B-Instruct-GGUF",
        "Qwen/Qwen2.5-1.5B-Instruct-GGUF",
        "Qwen/Qwen2.5-3B-Instruct-GGUF",
        "bartowski/Llama-3.2-1B-Instruct-GGUF",
        "bartowski/Llama-3.2-3B-Instruct-GGUF",
        "bartowski/Phi-3.5-mini-instruct-GGUF",
    ] {
        assert!(Catalogue::builtin().find(id).is_some_and(|card| card.id == id), "{id}");
    }
}

#[test]
fn a_bad_card_does_not_hide_the_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut card = Catalogue::builtin().cards()[0].clone();
    card.name = "Mine".to_owned();
    let text = card.to_toml().expect("plain data");
    fs::write(dir.path().join("a.toml"), "id = 3").expect("written");
    fs::write(dir.path().join("b.toml"), &text).expect("written");
    fs::write(dir.path().join("c.toml"), text.replace("n_layer = ", "n_layer = 0 # "))
        .expect("written");
    let (catalogue, errors) = Catalogue::load(Some(dir.path()));
    assert_eq!(catalogue.find(&card.id).map(|found| found.name.as_str()), Some("Mine"));
    assert_eq!(catalogue.cards().len(), Catalogue::builtin().cards().len());
    assert!(matches!(&errors[0], CatalogueError::Syntax { .. }), "{errors:?}");
    assert!(matches!(&errors[1], CatalogueError::Field { field: "n_layer", .. }), "{errors:?}");
}

#[test]
fn estimates_memory_of_keys_and_values() {
    let card = Catalogue::builtin().find("qwen2.5:0.5b").expect("a built-in card");
    assert_eq!(card.kv_bytes(1024), 2 * 2 * 128 * 24 * 1024);
}
