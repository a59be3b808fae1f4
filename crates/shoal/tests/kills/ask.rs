//! Questions, and answers as a client of the HTTP interface sees them come.

use std::{
    io::{BufRead, BufReader},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ask {
    pub(crate) text: String,
    pub(crate) temperature: f32,
    pub(crate) seed: u64,
    pub(crate) max_tokens: u32,
}

impl Ask {
    pub(crate) fn body(&self, model: &str) -> Value {
        json!({
            "model": model,
            "messages": [{"role": "user", "content": self.text}],
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "stream": true,
            "stream_options": {"include_usage": true},
        })
    }
}

/// What came.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) finish_reason: Option<String>,
    /// Tokens of the prompt and of the answer.
    pub(crate) usage: Option<(u64, u64)>,
    /// Whether the stream said that it was complete.
    is_done: bool,
    /// What the stream said had gone wrong.
    pub(crate) error: Option<String>,
    /// What a client cannot excuse: a stream that just ended, or went on after its end.
    pub(crate) fault: Option<String>,
    /// When it was asked for, and when each piece of text came.
    pub(crate) asked: Instant,
    pub(crate) pieces: Vec<Instant>,
    /// When its end came.
    ended: Option<Instant>,
    /// What the stream told of the cluster meanwhile.
    pub(crate) statuses: Vec<String>,
}

impl Answer {
    /// How it differs from what it should be; `None` if it does not.
    pub(crate) fn differs(&self, expected: &Self) -> Option<String> {
        if let Some(error) = &self.error {
            return Some(format!("ended after {} pieces with {error}", self.pieces.len()));
        }
        if let Some(fault) = &self.fault {
            return Some(format!("after {} pieces: {fault}", self.pieces.len()));
        }
        if self.text != expected.text {
            let n_same =
                self.text.bytes().zip(expected.text.bytes()).take_while(|(a, b)| a == b).count();
            return Some(format!(
                "other text from byte {n_same} on: {:?}, expected {:?}",
                self.text, expected.text
            ));
        }
        let ends = |it: &Self| (it.finish_reason.clone(), it.usage, it.is_done);
        (ends(self) != ends(expected))
            .then(|| format!("other end: {:?}, expected {:?}", ends(self), ends(expected)))
    }

    /// From the request to the first piece.
    pub(crate) fn first(&self) -> Option<Duration> {
        self.pieces.first().map(|first| *first - self.asked)
    }

    /// The longest time without a piece, or the end, that ended after `since`; the first one's usual time is taken off.
    pub(crate) fn pause(&self, since: Instant, usual_first: Duration) -> Duration {
        let mut longest = Duration::ZERO;
        let mut before = self.asked + usual_first;
        for &at in self.pieces.iter().chain(&self.ended) {
            if at > since {
                longest = longest.max(at.saturating_duration_since(before));
            }
            before = at;
        }
        longest
    }
}

/// Asks, and reads the answer as it comes; `at` is called with the number of pieces so far, and goes away by `false`.
pub(crate) fn stream(
    agent: &ureq::Agent,
    url: &str,
    body: &Value,
    mut at: impl FnMut(usize) -> bool,
) -> Answer {
    let mut answer = Answer {
        text: String::new(),
        finish_reason: None,
        usage: None,
        is_done: false,
        error: None,
        fault: None,
        asked: Instant::now(),
        pieces: Vec::new(),
        ended: None,
        statuses: Vec::new(),
    };
    let mut response = match agent.post(url).send_json(body) {
        Ok(response) => response,
        Err(error) => {
            answer.fault = Some(format!("no answer: {error}"));
            return answer;
        }
    };
    if response.status() != 200 {
        let body = response.body_mut().read_to_string().unwrap_or_default();
        answer.error = Some(format!("status {}: {body}", response.status()));
        return answer;
    }
    let mut event = String::new();
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                answer.fault = Some(format!("the stream broke: {error}"));
                return answer;
            }
        };
        if let Some(name) = line.strip_prefix("event: ") {
            name.clone_into(&mut event);
        } else if let Some(data) = line.strip_prefix("data: ") {
            let n_before = answer.pieces.len();
            answer.take(&event, data);
            answer.ended = (answer.is_done || answer.error.is_some()).then(Instant::now);
            if answer.pieces.len() > n_before && !at(answer.pieces.len()) {
                return answer;
            }
        } else if line.is_empty() {
            event.clear();
        }
    }
    if !answer.is_done && answer.error.is_none() && answer.fault.is_none() {
        answer.fault = Some("the stream ended without its end".to_owned());
    }
    answer
}

impl Answer {
    fn take(&mut self, event: &str, data: &str) {
        if self.is_done || self.error.is_some() {
            self.fault = Some(format!("the stream went on after its end: {data}"));
            return;
        }
        if !event.is_empty() && event != "message" && event != "error" {
            self.statuses.push(format!("{event} {data}"));
            return;
        }
        if data == "[DONE]" {
            self.is_done = true;
            return;
        }
        let Ok(chunk) = serde_json::from_str::<Value>(data) else {
            self.fault = Some(format!("no JSON: {data}"));
            return;
        };
        if let Some(error) = chunk.get("error") {
            self.error = Some(error.to_string());
            return;
        }
        if let [Some(n_prompt), Some(n_generated)] =
            ["prompt_tokens", "completion_tokens"].map(|name| chunk["usage"][name].as_u64())
        {
            self.usage = Some((n_prompt, n_generated));
        }
        let choice = &chunk["choices"][0];
        if let Some(reason) = choice["finish_reason"].as_str()
            && self.finish_reason.replace(reason.to_owned()).is_some()
        {
            self.fault = Some("it finished twice".to_owned());
        }
        let piece = choice["delta"]["content"].as_str().unwrap_or_default();
        if !piece.is_empty() {
            if self.finish_reason.is_some() {
                self.fault = Some(format!("text after the end: {piece:?}"));
            }
            self.text.push_str(piece);
            self.pieces.push(Instant::now());
        }
    }
}
