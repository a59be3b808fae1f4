//! The list of chats, and the search in it.

use std::cmp::Reverse;

use shoal_proto::chat::{Chat, Entry};

use super::{ChatPage, ChatQuery, ChatSummary, store::Store};

/// Characters that are shown before and after what was found.
const AROUND_CHARS: usize = 60;

impl Store {
    /// The chats that a query asks for. To search, every file is read until enough were found.
    pub(super) fn list(&self, query: &ChatQuery) -> ChatPage {
        let mut all = self.summaries();
        let n_total = all.len();
        let place = |it: &ChatSummary| (it.changed_ms, it.id);
        all.sort_unstable_by_key(|it| Reverse(place(it)));
        let words: Vec<String> = query.words.split_whitespace().map(fold).collect();
        let mut page = ChatPage { n_total, ..ChatPage::default() };
        for summary in all {
            if query.before.is_some_and(|before| place(&summary) >= before) {
                continue;
            }
            let found = if words.is_empty() { Some(None) } else { self.find(&summary, &words) };
            let Some(snippet) = found else { continue };
            if page.chats.len() >= query.limit {
                page.next = page.chats.last().map(|(last, _)| place(last));
                break;
            }
            page.chats.push((summary, snippet));
        }
        page
    }

    /// `None` if a word is missing; else the text around the first word, if it is in a text.
    fn find(&self, summary: &ChatSummary, words: &[String]) -> Option<Option<String>> {
        let Ok(Some(Entry::Live(chat))) = self.read(summary.id) else { return None };
        find(&chat, words)
    }
}

fn find(chat: &Chat, words: &[String]) -> Option<Option<String>> {
    let title = fold(&chat.head.title.value);
    let mut missing: Vec<&String> = words.iter().filter(|word| !title.contains(*word)).collect();
    let mut snippet = None;
    for (_, message) in super::change::in_order(chat) {
        let folded = fold(&message.text);
        if snippet.is_none() {
            let at = words.iter().find_map(|word| folded.find(word.as_str()));
            snippet = at.map(|at| around(&message.text, folded[..at].chars().count()));
        }
        missing.retain(|word| !folded.contains(word.as_str()));
        if missing.is_empty() && snippet.is_some() {
            break;
        }
    }
    missing.is_empty().then_some(snippet)
}

/// Makes upper and lower case equal, one character for one, so that places in both texts are the same.
fn fold(text: &str) -> String {
    text.chars().map(|c| c.to_lowercase().next().unwrap_or(c)).collect()
}

/// The text around its character `at`, on one line.
fn around(text: &str, at: usize) -> String {
    let begin = at.saturating_sub(AROUND_CHARS);
    let shown: String = text.chars().skip(begin).take(2 * AROUND_CHARS).collect();
    let line = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    let before = if begin > 0 { "…" } else { "" };
    let after = if text.chars().nth(begin + 2 * AROUND_CHARS).is_some() { "…" } else { "" };
    format!("{before}{line}{after}")
}
