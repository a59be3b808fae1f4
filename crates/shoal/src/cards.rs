//! `shoal models add` and `shoal models remove`: cards of the user's own.
//!
//! A card is added by copying its file into the cards' directory, after a look at it by the same code that reads it later.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use shoal_node::hub::{Card, Catalogue, CatalogueError};

use crate::{
    args::{AddArgs, RemoveCardsArgs},
    failure::Failure,
    library, output,
};

pub(crate) fn add(args: &AddArgs) -> Result<(), Failure> {
    let dir = library::cards_dir(&library::data_dir(args.data_dir.as_deref())?);
    for file in &args.files {
        for card in add_file(file, &dir)? {
            output::print(&format!("{} ({}) is in the catalogue\n", card.short, card.id))?;
        }
    }
    Ok(())
}

fn add_file(file: &Path, dir: &Path) -> Result<Vec<Card>, Failure> {
    let text = fs::read_to_string(file).with_context(|| format!("file {}", file.display()))?;
    let cards = check(&text, file)?;
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let target = dir.join(format!("{name}.toml"));
    if target.exists() && fs::read_to_string(&target).ok().as_deref() != Some(&text) {
        let error = anyhow!("cards {}: there is another file of that name", target.display());
        let hint = "`shoal models remove` removes its cards; or give the new file another name";
        return Err(Failure::from(error).hint(hint));
    }
    fs::create_dir_all(dir).with_context(|| format!("directory {}", dir.display()))?;
    write(&target, &text)?;
    Ok(cards)
}

pub(crate) fn remove(args: &RemoveCardsArgs) -> Result<(), Failure> {
    let dir = library::cards_dir(&library::data_dir(args.data_dir.as_deref())?);
    for name in &args.names {
        remove_card(name, &dir)?;
        output::print(&format!("your card of {name} is removed\n"))?;
    }
    Ok(())
}

fn remove_card(name: &str, dir: &Path) -> Result<(), Failure> {
    let file = find(dir, name)?.ok_or_else(|| {
        let what = format!("no card of your own is called {name:?} in {}", dir.display());
        Failure::new(anyhow!(what), Failure::MODEL)
    })?;
    let cards = check(&fs::read_to_string(&file)?, &file)?;
    if cards.len() > 1 {
        let error = anyhow!("cards {}: the file has other cards too", file.display());
        return Err(Failure::from(error).hint("take the card out of the file by hand"));
    }
    Ok(fs::remove_file(&file).with_context(|| format!("file {}", file.display()))?)
}

/// The file that has the card with this id or short name.
fn find(dir: &Path, name: &str) -> Result<Option<PathBuf>, Failure> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        // A file that makes no sense has no cards.
        let Ok(cards) = check(&fs::read_to_string(&path)?, &path) else { continue };
        let is = |text: &str| text.eq_ignore_ascii_case(name);
        if cards.iter().any(|card| is(&card.id) || is(&card.short)) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Reads the cards of a file as the catalogue will, from a directory in which it is alone.
fn check(text: &str, file: &Path) -> Result<Vec<Card>, Failure> {
    let scratch = Scratch::new()?;
    let copy = scratch.0.join("cards.toml");
    fs::write(&copy, text)?;
    let (catalogue, errors) = Catalogue::load(Some(&scratch.0));
    if let Some(mut error) = errors.into_iter().next() {
        match &mut error {
            CatalogueError::Unreadable { path, .. }
            | CatalogueError::TooLarge { path, .. }
            | CatalogueError::Syntax { path, .. }
            | CatalogueError::Field { path, .. } => file.clone_into(path),
        }
        return Err(Failure::new(error, Failure::MODEL));
    }
    let builtin = Catalogue::builtin().cards();
    Ok(catalogue.cards().iter().filter(|card| !builtin.contains(card)).cloned().collect())
}

/// A directory that is gone when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let name = format!("shoal-card-{:016x}", shoal_node::random_u64()?);
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).with_context(|| format!("directory {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The system clears such directories too.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes a file so that nobody ever sees a part of it.
fn write(target: &Path, text: &str) -> Result<(), Failure> {
    let unfinished = target.with_extension("unfinished");
    let written = fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, target));
    Ok(written.with_context(|| format!("file {}", target.display()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory for cards, and a file with one that is not in it yet.
    fn setup(change: impl Fn(&mut Card)) -> (Scratch, PathBuf) {
        let scratch = Scratch::new().unwrap();
        let mut card = Catalogue::builtin().cards()[0].clone();
        (card.id, card.short) = ("me/Mine-GGUF".to_owned(), format!("{}:mine", card.family));
        change(&mut card);
        let file = scratch.0.join("mine.toml");
        fs::write(&file, card.to_toml().unwrap()).unwrap();
        (scratch, file)
    }

    #[test]
    fn a_card_comes_and_goes() {
        let (scratch, file) = setup(|_| {});
        let dir = scratch.0.join("cards");
        let added = add_file(&file, &dir).unwrap();
        assert_eq!(added[0].id, "me/Mine-GGUF");
        assert!(Catalogue::load(Some(&dir)).0.find("me/mine-gguf").is_some());
        assert!(add_file(&file, &dir).is_ok(), "the same again changes nothing");
        remove_card("ME/mine-gguf", &dir).unwrap();
        assert!(Catalogue::load(Some(&dir)).0.find("me/mine-gguf").is_none());
        assert!(remove_card("me/mine-gguf", &dir).is_err());
        assert!(remove_card("qwen2.5:0.5b", &dir).is_err(), "not the user's own");
    }

    #[test]
    fn a_card_that_cannot_be_right_is_refused_with_its_field() {
        let (scratch, file) = setup(|card| card.n_layer = 0);
        let dir = scratch.0.join("cards");
        let error = format!("{:?}", add_file(&file, &dir).unwrap_err());
        for part in ["mine.toml", "n_layer", "expected 1 to 16777216", "got 0"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        fs::write(&file, "id = 3").unwrap();
        assert!(format!("{:?}", add_file(&file, &dir).unwrap_err()).contains("mine.toml"));
        assert!(!dir.exists(), "nothing was written");
    }

    #[test]
    fn another_file_of_that_name_is_not_overwritten() {
        let (scratch, file) = setup(|_| {});
        let dir = scratch.0.join("cards");
        add_file(&file, &dir).unwrap();
        let (_other, other) = setup(|card| card.n_layer = 3);
        assert!(add_file(&other, &dir).is_err());
        let kept = fs::read_to_string(dir.join("mine.toml")).unwrap();
        assert_eq!(kept, fs::read_to_string(file).unwrap());
    }
}
