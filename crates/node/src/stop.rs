//! Stop strings in streamed text: what may still become one is held back, so that no reader sees any part of it.

/// Looks for stop strings in text that comes in pieces.
#[derive(Debug, Clone)]
pub(crate) struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

impl StopMatcher {
    /// Returns a matcher for `stops`, none of them empty.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    /// Takes the next piece. Returns the text that is free to go out, and whether a stop string came: then the text ends before
    /// it, and nothing is to follow.
    pub(crate) fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop)).min();
        if let Some(at) = first {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let n_held = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - n_held);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// Returns what is held back at the end, when no more text can come.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length in bytes of the longest end of `text` that begins `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let ends = text.char_indices().map(|(at, _)| at);
    ends.map(|at| &text[at..]).find(|end| stop.starts_with(end)).map_or(0, str::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stops: &[&str], text: &str, expected: &str, stopped: bool) {
        // However the text is cut into pieces, what goes out is the same.
        let chars: Vec<char> = text.chars().collect();
        for n in 1..=chars.len() {
            let mut matcher = StopMatcher::new(stops.iter().map(ToString::to_string).collect());
            let mut out = String::new();
            let hit = chars.chunks(n).any(|piece| {
                let (text, hit) = matcher.push(&piece.iter().collect::<String>());
                out.push_str(&text);
                hit
            });
            if !hit {
                out.push_str(&matcher.finish());
            }
            assert_eq!((out.as_str(), hit), (expected, stopped), "in pieces of {n}");
        }
    }

    #[test]
    fn the_answer_ends_before_the_first_stop_string() {
        check(&["END"], "one END two", "one ", true);
        check(&["two", "one"], "zero one two", "zero ", true);
        check(&["aab"], "aaab", "a", true);
        check(&["é!"], "né né!", "né n", true);
    }

    #[test]
    fn what_only_began_as_a_stop_string_comes_out() {
        check(&["END"], "the EN", "the EN", false);
        check(&["aab"], "aaaa", "aaaa", false);
        check(&[], "plain", "plain", false);
    }

    #[test]
    fn text_that_cannot_become_a_stop_string_is_not_held_back() {
        let mut matcher = StopMatcher::new(vec!["\n\n".into()]);
        assert_eq!(matcher.push("a line\n"), ("a line".into(), false));
        assert_eq!(matcher.push("b"), ("\nb".into(), false));
    }
}
