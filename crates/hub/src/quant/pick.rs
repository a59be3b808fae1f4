//! Which file, or which parts of a split file, of a repository are one model of the wanted quantisation.

use std::collections::{BTreeMap, BTreeSet};

use super::{Quant, split_label};

/// Most choices that an error lists; the rest are counted.
const CHOICES_MAX: usize = 24;

/// A file of a pick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PickedFile {
    /// Its path in the repository.
    pub path: String,
    /// Its size.
    pub n_bytes: u64,
}

/// One model of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picked {
    /// Its quantisation, if its name says one.
    pub quant: Option<Quant>,
    /// Its file, or all its parts in their order.
    pub files: Vec<PickedFile>,
}

impl Picked {
    /// Bytes of all files.
    pub fn n_bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.n_bytes))
    }
}

/// Why no model was picked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// There is no GGUF model.
    #[error("expected a repository with .gguf files, got {instead}")]
    NoGguf {
        /// What is there.
        instead: String,
    },
    /// The wanted quantisation is not there.
    #[error("quantisation {wanted} is not in the repository; it has {available}")]
    NotThere {
        /// What was asked for.
        wanted: Quant,
        /// What there is, and which of it is supported.
        available: String,
    },
    /// The wanted quantisation is there and cannot be computed with.
    #[error("quantisation {wanted} is not supported; the repository has {available}")]
    Unsupported {
        /// What was asked for.
        wanted: Quant,
        /// What there is, and which of it is supported.
        available: String,
    },
    /// Nothing that is there can be computed with.
    #[error("none of the repository's quantisations is supported; it has {available}")]
    NoneSupported {
        /// What there is.
        available: String,
    },
    /// Several models could be meant.
    #[error("the repository has several models, name one of its files: {}", shortened(choices))]
    Ambiguous {
        /// Paths of first files.
        choices: Vec<String>,
    },
    /// A split model lacks a part.
    #[error("the split model lacks its part {path}")]
    MissingPart {
        /// Path of the first part that is not there.
        path: String,
    },
    /// The wanted file is not there.
    #[error("file {path} is not in the repository; it has {available}")]
    NoSuchFile {
        /// What was asked for.
        path: String,
        /// What there is.
        available: String,
    },
}

/// The name of a model's file and, if it is a part, which.
struct Part<'a> {
    stem: &'a str,
    /// Number and count, from 1, as they stand in the name.
    split: Option<(u32, u32)>,
}

/// A file, or the parts of one: `parts` by number.
struct Group<'a> {
    model: String,
    quant: Option<Quant>,
    n_parts: u32,
    parts: BTreeMap<u32, (&'a str, u64)>,
}

/// A name without `.gguf` and without the number of its part.
pub(super) fn stem(name: &str) -> &str {
    part_of(without_extension(name).unwrap_or(name)).stem
}

fn without_extension(name: &str) -> Option<&str> {
    let cut = name.len().checked_sub(".gguf".len())?;
    let is_gguf = name.get(cut..)?.eq_ignore_ascii_case(".gguf");
    is_gguf.then(|| &name[..cut])
}

fn part_of(name: &str) -> Part<'_> {
    let whole = Part { stem: name, split: None };
    let Some((front, count)) = name.rsplit_once("-of-") else { return whole };
    let Some((stem, number)) = front.rsplit_once('-') else { return whole };
    let digits = |text: &str| {
        let is_number = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<u32>().ok()).flatten()
    };
    match (digits(number), digits(count)) {
        (Some(number), Some(count)) if (1..=count).contains(&number) => {
            Part { stem, split: Some((number, count)) }
        }
        _ => whole,
    }
}

/// Picks one model of a repository: the wanted quantisation, else the first of the order of preference that is supported.
///
/// - `files`: paths and sizes of everything in the repository; projectors (`mmproj`), importance matrices, adapters and
///   files that are no GGUF are left alone
///
/// # Errors
/// See [`PickError`]; a model is never guessed where several could be meant.
pub fn pick(
    files: &[(&str, u64)],
    wanted: Option<&Quant>,
    is_supported: impl Fn(&Quant) -> bool,
) -> Result<Picked, PickError> {
    let groups = groups(files);
    if groups.is_empty() {
        return Err(PickError::NoGguf { instead: instead(files) });
    }
    let usable = |group: &&Group<'_>| group.quant.as_ref().is_none_or(&is_supported);
    let available = || available(&groups, &is_supported);
    if let Some(wanted) = wanted {
        let found: Vec<_> =
            groups.iter().filter(|group| group.quant.as_ref() == Some(wanted)).collect();
        if found.is_empty() {
            return Err(PickError::NotThere { wanted: wanted.clone(), available: available() });
        }
        if !is_supported(wanted) {
            return Err(PickError::Unsupported { wanted: wanted.clone(), available: available() });
        }
        return only(&found);
    }
    let found: Vec<_> = groups.iter().filter(usable).collect();
    if found.is_empty() {
        return Err(PickError::NoneSupported { available: available() });
    }
    let models: BTreeSet<_> = found.iter().map(|group| &group.model).collect();
    if models.len() > 1 {
        return Err(PickError::Ambiguous { choices: choices(&found) });
    }
    let best = found.iter().map(|group| group.quant.as_ref()).min_by_key(|quant| {
        // A file without a label, alone, is what there is; beside labelled ones it comes last.
        quant.map_or((usize::MAX, 0, ""), Quant::rank)
    });
    let found: Vec<_> =
        found.iter().copied().filter(|group| Some(group.quant.as_ref()) == best).collect();
    only(&found)
}

/// Picks a model by the path of its file, or of any of its parts.
///
/// # Errors
/// If the file is not there, or a part beside it.
pub fn pick_file(files: &[(&str, u64)], path: &str) -> Result<Picked, PickError> {
    let groups = groups(files);
    let is_meant = |group: &&Group<'_>| group.parts.values().any(|(found, _)| *found == path);
    match groups.iter().find(is_meant) {
        Some(group) => whole(group),
        None if groups.is_empty() => Err(PickError::NoGguf { instead: instead(files) }),
        None => {
            let all: Vec<_> = groups.iter().collect();
            let available = shortened(&choices(&all));
            Err(PickError::NoSuchFile { path: path.to_owned(), available })
        }
    }
}

fn only(found: &[&Group<'_>]) -> Result<Picked, PickError> {
    match found {
        [group] => whole(group),
        _ => Err(PickError::Ambiguous { choices: choices(found) }),
    }
}

fn whole(group: &Group<'_>) -> Result<Picked, PickError> {
    if let Some(missing) = (1..=group.n_parts).find(|part| !group.parts.contains_key(part)) {
        let (path, _) = group.parts.values().next().expect("a group is made from a file");
        let cut = path.len() - "00001-of-00001.gguf".len();
        let tail = &path[cut + 5..];
        return Err(PickError::MissingPart { path: format!("{}{missing:05}{tail}", &path[..cut]) });
    }
    let file =
        |(path, n_bytes): &(&str, u64)| PickedFile { path: (*path).to_owned(), n_bytes: *n_bytes };
    Ok(Picked { quant: group.quant.clone(), files: group.parts.values().map(file).collect() })
}

/// The models of a repository in the order of their paths. Files that differ in directory, name or number of parts are
/// never in the same group.
fn groups<'a>(files: &[(&'a str, u64)]) -> Vec<Group<'a>> {
    let mut found: BTreeMap<(&str, &str, u32), Group<'a>> = BTreeMap::new();
    for &(path, n_bytes) in files {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(name) = without_extension(name) else { continue };
        if is_no_model(path) {
            continue;
        }
        let part = part_of(name);
        let (number, n_parts) = part.split.unwrap_or((1, 1));
        // A lone file and a split one of one part are different files.
        let kind = part.split.map_or(0, |(_, count)| count);
        let group = found.entry((directory, part.stem, kind)).or_insert_with(|| Group {
            model: model_of(directory, part.stem),
            quant: Quant::of_path(path),
            n_parts,
            parts: BTreeMap::new(),
        });
        group.parts.insert(number, (path, n_bytes));
    }
    found.into_values().collect()
}

/// What the files of one model have in common whatever their quantisation: directory and name without labels.
fn model_of(directory: &str, stem: &str) -> String {
    let bare = |name: &str| {
        let before = split_label(name).map_or(name, |(before, _)| before);
        before.trim_end_matches(['-', '.', '_']).to_lowercase()
    };
    let directories = directory.split('/').map(bare).filter(|name| !name.is_empty());
    let mut model: Vec<_> = directories.collect();
    let name = bare(stem);
    // `model-Q4_K_M/model-Q4_K_M-00001-of-00002.gguf` is the same as `model-Q8_0.gguf`.
    if model.last() == Some(&name) {
        model.pop();
    }
    model.push(name);
    model.join("/")
}

fn is_no_model(path: &str) -> bool {
    let path = path.to_lowercase();
    let mut segments = path.split('/').rev();
    let name = segments.next().unwrap_or_default();
    name.contains("mmproj")
        || name.contains("imatrix")
        || name.starts_with("ggml-vocab")
        || segments.any(|directory| directory.contains("lora") || directory.contains("adapter"))
}

fn choices(groups: &[&Group<'_>]) -> Vec<String> {
    let first =
        |group: &&Group<'_>| group.parts.values().next().map(|(path, _)| (*path).to_owned());
    groups.iter().filter_map(first).collect()
}

fn shortened(choices: &[String]) -> String {
    let listed = choices.iter().take(CHOICES_MAX).cloned().collect::<Vec<_>>().join(", ");
    match choices.len().saturating_sub(CHOICES_MAX) {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}

fn available(groups: &[Group<'_>], is_supported: impl Fn(&Quant) -> bool) -> String {
    let quants: BTreeSet<_> = groups.iter().filter_map(|group| group.quant.as_ref()).collect();
    let (can, cannot): (Vec<_>, Vec<_>) = quants.into_iter().partition(|quant| is_supported(quant));
    let list =
        |quants: &[&Quant]| shortened(&quants.iter().map(ToString::to_string).collect::<Vec<_>>());
    match (can.is_empty(), cannot.is_empty()) {
        (true, true) => "files that name no quantisation".to_owned(),
        (false, true) => format!("{} (all supported)", list(&can)),
        (true, false) => format!("{} (none supported)", list(&cannot)),
        (false, false) => {
            format!("{} (supported) and {} (not supported)", list(&can), list(&cannot))
        }
    }
}

/// What a repository without GGUF models holds, from its files' names.
fn instead(files: &[(&str, u64)]) -> String {
    let has = |end: &str| files.iter().any(|(path, _)| path.to_lowercase().ends_with(end));
    let what = if files.iter().any(|(path, _)| path.to_lowercase().ends_with(".gguf")) {
        "only .gguf files that are no models (projectors, matrices, adapters)"
    } else if has(".safetensors") {
        "safetensors (the format of Transformers and MLX)"
    } else if has(".npz") {
        "NumPy archives (an old format of MLX)"
    } else if has(".bin") || has(".pt") || has(".pth") {
        "PyTorch weights"
    } else if has(".onnx") {
        "ONNX"
    } else if files.is_empty() {
        "an empty repository"
    } else {
        "no weights"
    };
    what.to_owned()
}

#[cfg(test)]
mod tests;
