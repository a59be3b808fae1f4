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
    /// Texts before which the answer ends.
    pub(crate) stop: Vec<String>,
    /// Whether the client may come back for the rest after its connection broke.
    pub(crate) is_kept: bool,
}

/// How long an answer is kept for a client that is away, in seconds.
const KEPT_S: u32 = 60;

impl Ask {
    pub(crate) fn body(&self, model: &str) -> Value {
        let mut body = json!({
            "model": model,
            "messages": [{"role": "user", "content": self.text}],
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        if !self.stop.is_empty() {
            body["stop"] = json!(self.stop);
        }
        if self.is_kept {
            body["shoal"] = json!({"resume_s": KEPT_S});
        }
        body
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
    /// What it is called, and the number of its latest event, if it is kept.
    pub(crate) id: String,
    pub(crate) last_event: Option<String>,
    /// When its client came back for the rest.
    resumed: Option<Instant>,
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
                // While its client was away nothing could come.
                let before = before.max(self.resumed.filter(|back| *back < at).unwrap_or(before));
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
    at: impl FnMut(usize) -> bool,
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
        id: String::new(),
        last_event: None,
        resumed: None,
        statuses: Vec::new(),
    };
    answer.read(agent.post(url).send_json(body), at);
    answer
}

/// Comes back for the rest of an answer from which its client went away, at the URL of its stream.
pub(crate) fn resume(
    agent: &ureq::Agent,
    url: &str,
    answer: &mut Answer,
    at: impl FnMut(usize) -> bool,
) {
    answer.resumed = Some(Instant::now());
    let mut request = agent.get(url);
    if let Some(last) = &answer.last_event {
        request = request.header("Last-Event-ID", last);
    }
    answer.read(request.call(), at);
}

impl Answer {
    /// Whether its client went away before the end.
    pub(crate) fn is_cut(&self) -> bool {
        !self.is_done && self.error.is_none() && self.fault.is_none()
    }

    /// Whether it ended otherwise than an answer does.
    pub(crate) fn is_faulty(&self) -> bool {
        self.error.is_some() || self.fault.is_some()
    }

    /// Reads what comes, until the end or until `at` goes away.
    fn read(
        &mut self,
        response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
        mut at: impl FnMut(usize) -> bool,
    ) {
        let mut response = match response {
            Ok(response) => response,
            Err(error) => {
                self.fault = Some(format!("no answer: {error}"));
                return;
            }
        };
        if response.status() != 200 {
            let body = response.body_mut().read_to_string().unwrap_or_default();
            self.error = Some(format!("status {}: {body}", response.status()));
            return;
        }
        let mut event = String::new();
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    self.fault = Some(format!("the stream broke: {error}"));
                    return;
                }
            };
            if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut event);
            } else if let Some(id) = line.strip_prefix("id: ") {
                // It comes before the data, so that whoever goes away with these does not get them again.
                self.last_event = Some(id.to_owned());
            } else if let Some(data) = line.strip_prefix("data: ") {
                let n_before = self.pieces.len();
                self.take(&event, data);
                self.ended = (self.is_done || self.error.is_some()).then(Instant::now);
                if self.pieces.len() > n_before && !at(self.pieces.len()) {
                    return;
                }
            } else if line.is_empty() {
                event.clear();
            }
        }
        if self.is_cut() {
            self.fault = Some("the stream ended without its end".to_owned());
        }
    }

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
        if let Some(id) = chunk["id"].as_str() {
            id.clone_into(&mut self.id);
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
