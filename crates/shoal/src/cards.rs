//! `shoal models add` and `shoal models remove`: cards of the user's own.
//!
//! A card is added by copying its file into the cards' directory, after a look at it by the same code that reads it later.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use shoal_node::hub::{Card, Catalogue};

use crate::{
    args::{AddArgs, RemoveCardsArgs},
    failure::Failure,
    library, output,
};

pub(crate) fn add(args: &AddArgs) -> Result<(), Failure> {
    let dir = library::cards_dir(&library::data_dir(args.data_dir.as_deref())?);
    fs::create_dir_all(&dir).with_context(|| format!("directory {}", dir.display()))?;
    for file in &args.files {
        let text = fs::read_to_string(file).with_context(|| format!("file {}", file.display()))?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let target = dir.join(format!("{name}.toml"));
        if target.exists() && fs::read_to_string(&target).ok().as_deref() != Some(&text) {
            let error = anyhow!("cards {}: there is another file of that name", target.display());
            return Err(Failure::from(error).hint(
                "`shoal models remove` removes its cards; or give the new file another name",
            ));
        }
        let cards = check(&text, file)?;
        write(&target, &text)?;
        for card in cards {
            output::print(&format!("{} ({}) is in the catalogue\n", card.short, card.id))?;
        }
    }
    Ok(())
}

pub(crate) fn remove(args: &RemoveCardsArgs) -> Result<(), Failure> {
    let dir = library::cards_dir(&library::data_dir(args.data_dir.as_deref())?);
    for name in &args.names {
        let file = find(&dir, name)?.ok_or_else(|| {
            let what = format!("no card of your own is called {name:?} in {}", dir.display());
            Failure::new(anyhow!(what), Failure::MODEL)
        })?;
        let cards = check(&fs::read_to_string(&file)?, &file)?;
        if cards.len() > 1 {
            let error = anyhow!("cards {}: the file has other cards too", file.display());
            return Err(Failure::from(error).hint("take the card out of the file by hand"));
        }
        fs::remove_file(&file).with_context(|| format!("file {}", file.display()))?;
        output::print(&format!("{name} is not in the catalogue any more\n"))?;
    }
    Ok(())
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
    if let Some(error) = errors.into_iter().next() {
        let what = format!("file {} cannot be used", file.display());
        return Err(Failure::new(anyhow::Error::from(error).context(what), Failure::MODEL));
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
