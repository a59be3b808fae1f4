//! Which of the files in a directory make up a model: one file, or the parts of a split one.

use std::path::PathBuf;

use shoal_proto::model::{FILES_MAX, FileId, FileOrigin};

/// A model file that was found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Its name, which for files in a cache is not that of the path.
    pub(super) name: String,
    pub(super) n_bytes: u64,
    pub(super) id: Option<FileId>,
    pub(super) origin: Option<FileOrigin>,
}

/// A model's files.
#[derive(Debug)]
pub(super) struct Group {
    /// The file's name without its suffix and number.
    pub(super) stem: String,
    /// The files; the parts in their order.
    pub(super) files: Vec<Found>,
    /// What is missing.
    pub(super) wrong: Option<String>,
}

/// Whether a file's name says that it holds a model's weights: projectors for pictures and matrices of importance have the same
/// suffix.
pub(super) fn is_model_file(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with(".gguf") && !name.contains("mmproj") && !name.contains("imatrix")
}

/// Splits `NAME-00002-of-00003.gguf` into stem, number from 1 and count.
pub(super) fn part_of(name: &str) -> Option<(&str, u32, u32)> {
    let stem = stem_of(name);
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (stem, no) = rest.rsplit_once('-')?;
    let number = |digits: &str| {
        let is_number = digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse::<u32>().ok()).flatten()
    };
    let (no, count) = (number(no)?, number(count)?);
    ((1..=count).contains(&no)).then_some((stem, no, count))
}

/// A file's name without `.gguf`.
pub(super) fn stem_of(name: &str) -> &str {
    match name.len().checked_sub(5).and_then(|at| name.split_at_checked(at)) {
        Some((stem, suffix)) if suffix.eq_ignore_ascii_case(".gguf") => stem,
        _ => name,
    }
}

/// Sorts files into models.
pub(super) fn group(files: Vec<Found>) -> Vec<Group> {
    type Key = (String, u32);
    let mut groups = std::collections::BTreeMap::<Key, Vec<(u32, Found)>>::new();
    for file in files.into_iter().filter(|file| is_model_file(&file.name)) {
        let (stem, no, count) = part_of(&file.name).unwrap_or((stem_of(&file.name), 1, 1));
        let key = (stem.to_owned(), count);
        groups.entry(key).or_default().push((no, file));
    }
    let group = |((stem, count), mut files): (Key, Vec<(u32, Found)>)| {
        files.sort_by_key(|(no, _)| *no);
        files.dedup_by_key(|(no, _)| *no);
        let is_there = |no: &u32| files.iter().any(|(there, _)| there == no);
        let limit = u32::try_from(FILES_MAX).expect("a small constant");
        let wrong = if count > limit {
            Some(format!("{stem}: expected at most {limit} parts, got {count}"))
        } else {
            let missing = (1..=count).find(|no| !is_there(no));
            missing.map(|no| format!("{stem}: part {no} of {count} is missing"))
        };
        Group { stem, files: files.into_iter().map(|(_, file)| file).collect(), wrong }
    };
    groups.into_iter().map(group).collect()
}

/// The quantisation that a file's name ends in, in capitals: `Q4_K_M` of `tinyllama.Q4_K_M` and of `qwen-q4_k_m`.
pub(super) fn label(stem: &str) -> Option<String> {
    let is_label = |token: &str| {
        let token = token.strip_prefix('I').unwrap_or(token);
        let quant = token.strip_prefix('Q').or_else(|| token.strip_prefix("TQ"));
        matches!(token, "F16" | "F32" | "BF16")
            || token.starts_with("MXFP4")
            || quant.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let token = stem.rsplit(['-', '.']).next()?.to_ascii_uppercase();
    is_label(&token).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str) -> Found {
        Found { path: name.into(), name: name.to_owned(), n_bytes: 1, id: None, origin: None }
    }

    fn groups(names: &[&str]) -> Vec<(String, usize, Option<String>)> {
        let groups = group(names.iter().map(|name| found(name)).collect());
        groups.into_iter().map(|group| (group.stem, group.files.len(), group.wrong)).collect()
    }

    #[test]
    fn parts_are_one_model() {
        let names = ["b-00002-of-00002.gguf", "a.gguf", "b-00001-of-00002.gguf", "mmproj-a.gguf"];
        let expected = [("a".to_owned(), 1, None), ("b".to_owned(), 2, None)];
        assert_eq!(groups(&names), expected);
    }

    #[test]
    fn a_missing_part_is_named() {
        let wrong = groups(&["b-00001-of-00003.gguf", "b-00003-of-00003.gguf"])[0].2.clone();
        assert_eq!(wrong.unwrap(), "b: part 2 of 3 is missing");
        let wrong = groups(&["b-00001-of-99999.gguf"])[0].2.clone();
        assert_eq!(wrong.unwrap(), "b: expected at most 256 parts, got 99999");
    }

    #[test]
    fn names_that_only_look_like_parts_are_whole() {
        for name in ["a-00003-of-00002.gguf", "a-1-of-2.gguf", "-of-.gguf", "a-00000-of-00001.gguf"]
        {
            assert_eq!(part_of(name), None, "{name}");
        }
        assert_eq!(stem_of("a.GGUF"), "a");
    }

    #[test]
    fn labels_are_read_from_the_end() {
        let check = |stem, expected: Option<&str>| assert_eq!(label(stem).as_deref(), expected);
        check("Llama-3.2-1B-Instruct-Q4_K_M", Some("Q4_K_M"));
        check("tinyllama-1.1b-chat-v1.0.q8_0", Some("Q8_0"));
        check("gemma-3-IQ4_XS", Some("IQ4_XS"));
        check("smollm-bf16", Some("BF16"));
        check("qwen3-Q", None);
        check("model", None);
    }
}
