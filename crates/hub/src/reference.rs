//! What a user may type as a model's name, and what it means. Nothing here asks anybody; a text that could mean several things
//! is an error and never a guess.
//!
//! | text | meaning |
//! |---|---|
//! | `demo` | the demonstration model |
//! | `./m.gguf`, `/m.gguf`, `~/m.gguf`, `m.gguf` | a file of this device |
//! | `qwen2.5:0.5b`, `qwen2.5:0.5b-q8_0`, `qwen2.5` | a card of the catalogue |
//! | `owner/repo`, `owner/repo:Q8_0`, `owner/repo@revision` | a repository of the hub |
//! | `owner/repo/file.gguf` | one file of it |
//! | `hf:…`, `hf.co/…`, `huggingface.co/…`, `https://huggingface.co/…` | the same |
//! | `https://…/m.gguf` | a file of any server |

use std::path::PathBuf;

use crate::{
    catalogue::{Card, Catalogue},
    demo::DEMO,
    quant::Quant,
};

/// Most names that an error suggests.
const SUGGESTIONS_MAX: usize = 5;
/// Least similarity (Jaro-Winkler, 0 to 1) of a name that is suggested: one or two slips of the finger.
const SIMILARITY_MIN: f64 = 0.8;
/// Longest text that names anything.
const TEXT_BYTES_MAX: usize = 4096;
/// What the hub is called in front of a repository.
const HUB_PREFIXES: [&str; 6] = [
    "hf:",
    "hf.co/",
    "huggingface.co/",
    "https://hf.co/",
    "https://huggingface.co/",
    "https://www.huggingface.co/",
];

/// What a text names.
#[derive(Debug, Clone, PartialEq)]
pub enum Reference {
    /// The demonstration model.
    Demo,
    /// A file of this device, as it was typed.
    Path(PathBuf),
    /// A file of any server.
    Url(String),
    /// Something in a repository of the hub.
    Repo(RepoReference),
}

/// Something in a repository of the hub.
#[derive(Debug, Clone, PartialEq)]
pub struct RepoReference {
    /// `owner/name`.
    pub repo: String,
    /// Branch, tag or commit; `None` for what is current.
    pub revision: Option<String>,
    /// Which model of it.
    pub what: RepoWhat,
}

/// Which model of a repository.
#[derive(Debug, Clone, PartialEq)]
pub enum RepoWhat {
    /// That of a quantisation; `None` for the preferred one.
    Quant(Option<Quant>),
    /// That of a file, or of the parts of which it is one.
    File(String),
}

/// A text that names no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing is called that.
    #[error("model {text:?} is not known{}", hint(suggestions))]
    Unknown {
        /// The text, shortened.
        text: String,
        /// Names that are like it.
        suggestions: Vec<String>,
    },
    /// It has the form of a name and is none.
    #[error("model {text:?}: expected {expected}")]
    Malformed {
        /// The text, shortened.
        text: String,
        /// What it should look like.
        expected: &'static str,
    },
}

fn hint(suggestions: &[String]) -> String {
    match suggestions {
        [] => String::new(),
        names => format!("; did you mean {}?", names.join(", ")),
    }
}

impl Reference {
    /// Reads what a user typed.
    ///
    /// # Errors
    /// If it names nothing; with names that are like it.
    pub fn parse(text: &str, catalogue: &Catalogue) -> Result<Self, ReferenceError> {
        let text = text.trim();
        if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(malformed(text, "a model's name"));
        }
        if text == DEMO {
            return Ok(Self::Demo);
        }
        if let Some(rest) = strip_hub(text) {
            return repo(text, rest).map(Self::Repo);
        }
        if starts_with(text, "http://") || starts_with(text, "https://") {
            let path = text.split(['?', '#']).next().unwrap_or(text);
            return if is_gguf(path) {
                Ok(Self::Url(text.to_owned()))
            } else {
                Err(malformed(text, "the URL of a .gguf file"))
            };
        }
        if text.starts_with(['.', '/', '~']) {
            return Ok(Self::Path(text.into()));
        }
        match text.matches('/').count() {
            0 if is_gguf(text) => Ok(Self::Path(text.into())),
            0 => of_card(text, catalogue).map(Self::Repo),
            // `owner/repo.gguf` could be a repository, but people keep files in directories.
            1 if is_gguf(text) => Ok(Self::Path(text.into())),
            _ => repo(text, text).map(Self::Repo),
        }
    }
}

impl RepoReference {
    /// The name of the model of one quantisation of this repository, the same on every node.
    pub fn model_name(&self, quant: &Quant) -> String {
        format!("{}{}:{quant}", self.repo, self.at())
    }

    /// The name of the model of one file of this repository.
    pub fn file_name(&self, path: &str) -> String {
        format!("{}{}/{path}", self.repo, self.at())
    }

    fn at(&self) -> String {
        self.revision.as_ref().map(|revision| format!("@{revision}")).unwrap_or_default()
    }
}

fn strip_hub(text: &str) -> Option<&str> {
    let prefix = HUB_PREFIXES.into_iter().find(|prefix| starts_with(text, prefix))?;
    Some(text[prefix.len()..].trim_start_matches('/'))
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn is_gguf(path: &str) -> bool {
    let cut = path.len().saturating_sub(".gguf".len());
    path.get(cut..).is_some_and(|end| end.eq_ignore_ascii_case(".gguf"))
}

/// Reads `owner/name[@revision][:quant]`, `owner/name[@revision]/file.gguf`, and the address of a page of the hub.
fn repo(text: &str, rest: &str) -> Result<RepoReference, ReferenceError> {
    const EXPECTED: &str =
        "owner/name[@revision][:quantisation] or owner/name[@revision]/file.gguf";
    let error = || malformed(text, EXPECTED);
    let rest = rest.split(['?', '#']).next().unwrap_or(rest).trim_end_matches('/');
    let (owner, rest) = rest.split_once('/').ok_or_else(error)?;
    let (name, path) = match rest.split_once('/') {
        Some((name, path)) => (name, Some(path)),
        None => (rest, None),
    };
    let (name, quant) = match name.split_once(':') {
        Some((name, quant)) => (name, Some(quant)),
        None => (name, None),
    };
    let (name, mut revision) = match name.split_once('@') {
        Some((name, revision)) => (name, Some(revision.to_owned())),
        None => (name, None),
    };
    if ![owner, name].iter().all(|part| is_repo_part(part)) {
        return Err(error());
    }
    let what = match (path, quant) {
        (None, None) => RepoWhat::Quant(None),
        (None, Some("latest")) => RepoWhat::Quant(None),
        (None, Some(quant)) => RepoWhat::Quant(Some(quant.parse().map_err(|_| error())?)),
        (Some(_), Some(_)) => return Err(error()),
        (Some(path), None) => {
            let path = match path.split_once('/') {
                // The address of a page: `resolve/REVISION/PATH`, `blob/REVISION/PATH`.
                Some(("resolve" | "blob", rest)) => {
                    let (at, path) = rest.split_once('/').ok_or_else(error)?;
                    revision = (at != "main").then(|| at.to_owned());
                    path
                }
                Some(("tree", at)) => {
                    revision = (at != "main").then(|| at.to_owned());
                    ""
                }
                _ => path,
            };
            match path {
                "" => RepoWhat::Quant(None),
                path if is_gguf(path) => RepoWhat::File(path.to_owned()),
                _ => return Err(error()),
            }
        }
    };
    if revision.as_ref().is_some_and(|revision| revision.is_empty()) {
        return Err(error());
    }
    Ok(RepoReference { repo: format!("{owner}/{name}"), revision, what })
}

fn is_repo_part(part: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=96).contains(&part.len()) && part.chars().all(is_plain) && !part.starts_with('.')
}

/// Finds the card that a name without a slash stands for: `family`, `family:size`, `family:size-quant`.
fn of_card(text: &str, catalogue: &Catalogue) -> Result<RepoReference, ReferenceError> {
    let found = |card: &Card, quant| RepoReference {
        repo: card.id.clone(),
        revision: None,
        what: RepoWhat::Quant(quant),
    };
    let name = text.strip_suffix(":latest").unwrap_or(text);
    if let Some(card) = catalogue.find(name).or_else(|| catalogue.family_default(name)) {
        return Ok(found(card, None));
    }
    // The longest front that is a card, and behind it a quantisation.
    let cuts = name.match_indices('-').rev();
    for (at, _) in cuts.filter(|(at, _)| name[..*at].contains(':')) {
        let (front, back) = (&name[..at], &name[at + 1..]);
        // Others name the variant too: `qwen2.5:0.5b-instruct-q4_K_M`.
        let front = front.strip_suffix("-instruct").unwrap_or(front);
        if let (Some(card), Ok(quant)) = (catalogue.find(front), back.parse::<Quant>()) {
            return Ok(found(card, Some(quant)));
        }
    }
    if let Some(card) = name.strip_suffix("-instruct").and_then(|name| catalogue.find(name)) {
        return Ok(found(card, None));
    }
    Err(ReferenceError::Unknown {
        text: shortened(text),
        suggestions: suggestions(name, catalogue),
    })
}

/// Names of the catalogue that are like `text`, the most similar first.
fn suggestions(text: &str, catalogue: &Catalogue) -> Vec<String> {
    let wanted = text.to_ascii_lowercase();
    let score = |card: &Card| {
        let repo_name = card.id.rsplit('/').next().unwrap_or(&card.id).to_ascii_lowercase();
        let names = [card.short.to_ascii_lowercase(), card.family.to_ascii_lowercase(), repo_name];
        let is_part = names.iter().any(|name| wanted.len() >= 3 && name.contains(&wanted));
        let similarity = names.iter().map(|name| strsim::jaro_winkler(&wanted, name));
        similarity.fold(if is_part { 1.0 } else { 0.0 }, f64::max)
    };
    let mut scored: Vec<(f64, &str)> = catalogue
        .cards()
        .iter()
        .map(|card| (score(card), card.short.as_str()))
        .filter(|(score, _)| *score >= SIMILARITY_MIN)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(SUGGESTIONS_MAX).map(|(_, name)| name.to_owned()).collect()
}

fn malformed(text: &str, expected: &'static str) -> ReferenceError {
    ReferenceError::Malformed { text: shortened(text), expected }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(text, Catalogue::builtin())
    }

    #[track_caller]
    fn check_repo(text: &str, repo: &str, revision: Option<&str>, what: RepoWhat) {
        let expected =
            RepoReference { repo: repo.to_owned(), revision: revision.map(str::to_owned), what };
        assert_eq!(parse(text), Ok(Reference::Repo(expected)), "{text}");
    }

    fn quant(label: &str) -> RepoWhat {
        RepoWhat::Quant(Some(label.parse().expect("a label")))
    }

    const QWEN: &str = "Qwen/Qwen2.5-0.5B-Instruct-GGUF";

    #[test]
    fn short_names_are_those_that_people_type() {
        check_repo("qwen2.5:0.5b", QWEN, None, RepoWhat::Quant(None));
        check_repo("Qwen2.5:0.5B", QWEN, None, RepoWhat::Quant(None));
        check_repo("qwen2.5:0.5b-q8_0", QWEN, None, quant("Q8_0"));
        check_repo("qwen2.5:0.5b-instruct-q4_K_M", QWEN, None, quant("Q4_K_M"));
        check_repo("qwen2.5:0.5b-instruct", QWEN, None, RepoWhat::Quant(None));
        let llama = "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF";
        check_repo("tinyllama", llama, None, RepoWhat::Quant(None));
        check_repo("tinyllama:latest", llama, None, RepoWhat::Quant(None));
    }

    #[test]
    fn the_users_seven_are_known_by_their_ids() {
        for id in [
            "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF",
            "Qwen/Qwen2.5-0.5B-Instruct-GGUF",
            "Qwen/Qwen2.5-1.5B-Instruct-GGUF",
            "Qwen/Qwen2.5-3B-Instruct-GGUF",
            "bartowski/Llama-3.2-1B-Instruct-GGUF",
            "bartowski/Llama-3.2-3B-Instruct-GGUF",
            "bartowski/Phi-3.5-mini-instruct-GGUF",
        ] {
            assert!(Catalogue::builtin().find(id).is_some(), "{id}");
            check_repo(id, id, None, RepoWhat::Quant(None));
        }
    }

    #[test]
    fn repositories_are_named_in_many_ways() {
        check_repo("hf:a/b", "a/b", None, RepoWhat::Quant(None));
        check_repo("a/b:Q6_K", "a/b", None, quant("Q6_K"));
        check_repo("hf.co/a/b:q6_k", "a/b", None, quant("Q6_K"));
        check_repo("https://huggingface.co/a/b", "a/b", None, RepoWhat::Quant(None));
        check_repo("a/b@v1.2", "a/b", Some("v1.2"), RepoWhat::Quant(None));
        check_repo(
            "hf:a/b@v1:Q8_0",
            "a/b@v1:Q8_0".split('@').next().expect("a/b"),
            Some("v1"),
            quant("Q8_0"),
        );
        let file = |path: &str| RepoWhat::File(path.to_owned());
        check_repo("hf:a/b/x.gguf", "a/b", None, file("x.gguf"));
        check_repo("hf:a/b@main/d/x.gguf", "a/b", Some("main"), file("d/x.gguf"));
        let page = "https://huggingface.co/a/b/blob/main/x.gguf";
        check_repo(page, "a/b", None, file("x.gguf"));
        let download = "https://huggingface.co/a/b/resolve/v2/d/x.gguf?download=true";
        check_repo(download, "a/b", Some("v2"), file("d/x.gguf"));
    }

    #[test]
    fn files_and_urls_are_told_from_repositories() {
        assert_eq!(parse("demo"), Ok(Reference::Demo));
        for path in ["m.gguf", "./m", "/a/m.gguf", "~/m.gguf", "models/m.gguf", "../x"] {
            assert_eq!(parse(path), Ok(Reference::Path(path.into())), "{path}");
        }
        let url = "https://example.org/m.gguf?token=1";
        assert_eq!(parse(url), Ok(Reference::Url(url.to_owned())));
    }

    #[test]
    fn slips_of_the_finger_get_suggestions() {
        let error = parse("qwen2.5:0.5").expect_err("no such name").to_string();
        assert!(
            error.starts_with("model \"qwen2.5:0.5\" is not known; did you mean qwen2.5:0.5b"),
            "{error}"
        );
        let error = parse("tinylama").expect_err("no such name").to_string();
        assert!(error.contains("tinyllama:1.1b"), "{error}");
        let error = parse("gpt-4").expect_err("no such name").to_string();
        assert_eq!(error, "model \"gpt-4\" is not known");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for wrong in
            ["", " ", "a/b/c", "a//b", "hf:a", "a/b:", "a/b@", "a\nb", "hf:../b", "https://x/y.zip"]
        {
            let parsed = parse(wrong);
            assert!(
                matches!(parsed, Err(ReferenceError::Malformed { .. })),
                "{wrong:?}: {parsed:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn names_of_models_name_them(owner in "[a-zA-Z0-9]{1,8}", name in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}") {
            let reference = RepoReference {
                repo: format!("{owner}/{name}"),
                revision: None,
                what: quant("Q4_K_M"),
            };
            let label = "Q4_K_M".parse().expect("a label");
            prop_assert_eq!(parse(&reference.model_name(&label)), Ok(Reference::Repo(reference)));
        }
    }
}
