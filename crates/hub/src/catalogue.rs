//! The models that are known without asking anybody: those of the data file that is part of the binary, and the user's own
//! cards, which have the same form.

mod card;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use serde::Deserialize;

pub use card::{Card, CardFormat, CardQuant};

/// The cards that come with Shoal.
static BUILTIN: &str = include_str!("../catalogue.toml");
/// Largest file of cards that is read: a card is some hundred bytes.
const CARDS_BYTES_MAX: u64 = 1 << 20;

/// The known models, the built-in ones in their order, then the user's.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalogue {
    cards: Vec<Card>,
}

/// A file of cards that cannot be used; the other files can.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// A file or the directory cannot be read.
    #[error("cards {path}: cannot be read", path = path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is larger than cards are.
    #[error("cards {path}: expected at most {CARDS_BYTES_MAX} bytes, got {got}", path = path.display())]
    TooLarge {
        /// Which one.
        path: PathBuf,
        /// Its size.
        got: u64,
    },
    /// A file is no TOML of cards; the source names line and field.
    #[error("cards {path}: expected one card, or [[card]] tables", path = path.display())]
    Syntax {
        /// Which one.
        path: PathBuf,
        /// What is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// A card's field has a value that cannot be right.
    #[error("cards {path}, card {id}: {field}: expected {expected}, got {got}", path = path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The card.
        id: String,
        /// Its field.
        field: &'static str,
        /// What would be right.
        expected: &'static str,
        /// What is there.
        got: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Several {
    card: Vec<Card>,
}

impl Catalogue {
    /// The cards that come with Shoal.
    pub fn builtin() -> &'static Self {
        static PARSED: OnceLock<Catalogue> = OnceLock::new();
        PARSED.get_or_init(|| {
            let several: Several =
                toml::from_str(BUILTIN).expect("a test parses the built-in catalogue");
            Self { cards: several.card }
        })
    }

    /// The built-in cards and those of the `.toml` files in a directory, in the order of their names. A user's card
    /// replaces the built-in one of the same id. A directory that is not there holds no cards. What cannot be used is
    /// returned beside the rest.
    pub fn load(user_dir: Option<&Path>) -> (Self, Vec<CatalogueError>) {
        let (mut catalogue, mut errors) = (Self::builtin().clone(), Vec::new());
        let Some(user_dir) = user_dir else { return (catalogue, errors) };
        let paths = match card_files(user_dir) {
            Ok(paths) => paths,
            Err(source) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => {
                errors.push(CatalogueError::Unreadable { path: user_dir.to_owned(), source });
                Vec::new()
            }
        };
        for path in paths {
            match read_cards(&path) {
                Ok(cards) => {
                    for card in cards {
                        match card.check() {
                            Ok(()) => catalogue.put(card),
                            Err((field, expected, got)) => errors.push(CatalogueError::Field {
                                path: path.clone(),
                                id: card.id,
                                field,
                                expected,
                                got,
                            }),
                        }
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        (catalogue, errors)
    }

    /// All cards.
    pub fn cards(&self) -> &[Card] {
        &self.cards
    }

    /// The card with this id or short name, whatever its case.
    pub fn find(&self, name: &str) -> Option<&Card> {
        let is = |text: &str| text.eq_ignore_ascii_case(name);
        // Users' cards come last and win.
        self.cards.iter().rev().find(|card| is(&card.id) || is(&card.short))
    }

    /// The families in the order of their first cards.
    pub fn families(&self) -> Vec<&str> {
        let mut families: Vec<&str> = Vec::new();
        for card in &self.cards {
            if !families.contains(&card.family.as_str()) {
                families.push(&card.family);
            }
        }
        families
    }

    /// The card that a family's name alone stands for: the one that says so, else the first.
    pub fn family_default(&self, family: &str) -> Option<&Card> {
        let mut members = self.cards.iter().filter(|card| card.family.eq_ignore_ascii_case(family));
        let first = members.next()?;
        if first.is_default {
            return Some(first);
        }
        Some(members.find(|card| card.is_default).unwrap_or(first))
    }

    fn put(&mut self, card: Card) {
        match self.cards.iter_mut().find(|known| known.id.eq_ignore_ascii_case(&card.id)) {
            Some(known) => *known = card,
            None => self.cards.push(card),
        }
    }
}

fn card_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml")) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_cards(path: &Path) -> Result<Vec<Card>, CatalogueError> {
    let unreadable = |source| CatalogueError::Unreadable { path: path.to_owned(), source };
    let got = fs::metadata(path).map_err(unreadable)?.len();
    if got > CARDS_BYTES_MAX {
        return Err(CatalogueError::TooLarge { path: path.to_owned(), got });
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let syntax =
        |source| CatalogueError::Syntax { path: path.to_owned(), source: Box::new(source) };
    let table: toml::Table = toml::from_str(&text).map_err(syntax)?;
    if table.contains_key("card") {
        return toml::from_str::<Several>(&text).map(|several| several.card).map_err(syntax);
    }
    toml::from_str::<Card>(&text).map(|card| vec![card]).map_err(syntax)
}

#[cfg(test)]
mod tests;
