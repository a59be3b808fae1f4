//! The body of a chat request, and what it means.
//!
//! Every field that OpenAI documents is known here by name. One that this node honours has its place in [`ChatRequest`];
//! one that it cannot honour passes only with a value that asks for nothing ([`NEUTRAL`]); any other is an error. Two
//! differences to OpenAI are deliberate: `stop` takes up to 16 strings, and without a `seed` a random one is drawn, so
//! that two equal requests differ as people expect. Defaults are OpenAI's: temperature 1, `top_p` 1.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};
use serde_json::{Map, Value};
use shoal_node::{ChatMessage, GenerateRequest, Prompt};
use shoal_proto::SamplingParams;

use super::{record::Place, samplers::Samplers};
use crate::{chats::read_id, error::ApiError};

/// Most stop strings of a request.
const STOPS_MAX: usize = 16;
/// Longest time that an answer outlives its client's connection.
const RESUME_S_MAX: u64 = 600;

/// What an unsupported field may hold without asking for anything; `null` always may.
#[derive(Debug, Clone, Copy)]
enum Neutral {
    /// The field does not change the answer.
    Anything,
    /// These values, as JSON.
    Only(&'static [&'static str]),
}

/// Fields that this node cannot honour, and what they may hold all the same.
const NEUTRAL: [(&str, Neutral); 24] = [
    ("audio", Neutral::Only(&[])),
    ("function_call", Neutral::Only(&[r#""none""#, r#""auto""#])),
    ("functions", Neutral::Only(&["[]"])),
    ("logprobs", Neutral::Only(&["false"])),
    ("metadata", Neutral::Anything),
    ("modalities", Neutral::Only(&[r#"["text"]"#])),
    ("moderation", Neutral::Only(&[])),
    ("n", Neutral::Only(&["1"])),
    ("parallel_tool_calls", Neutral::Anything),
    ("prediction", Neutral::Only(&[])),
    ("prompt_cache_key", Neutral::Anything),
    ("prompt_cache_options", Neutral::Anything),
    ("prompt_cache_retention", Neutral::Anything),
    ("reasoning_effort", Neutral::Only(&[r#""none""#])),
    ("response_format", Neutral::Only(&[r#"{"type":"text"}"#])),
    ("safety_identifier", Neutral::Anything),
    ("service_tier", Neutral::Only(&[r#""auto""#, r#""default""#])),
    ("store", Neutral::Only(&["false"])),
    ("tool_choice", Neutral::Only(&[r#""none""#, r#""auto""#])),
    ("tools", Neutral::Only(&["[]"])),
    ("top_logprobs", Neutral::Only(&["0"])),
    ("user", Neutral::Anything),
    ("verbosity", Neutral::Only(&[r#""medium""#])),
    ("web_search_options", Neutral::Only(&[])),
];

/// The same for the fields of a message: clients send answers back with all that they came with.
const NEUTRAL_IN_MESSAGE: [(&str, Neutral); 6] = [
    ("annotations", Neutral::Only(&["[]"])),
    ("audio", Neutral::Only(&[])),
    ("function_call", Neutral::Only(&[])),
    ("name", Neutral::Only(&[])),
    ("refusal", Neutral::Only(&[])),
    ("tool_calls", Neutral::Only(&["[]"])),
];

/// The body as it comes.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatRequest {
    model: String,
    messages: Vec<Message>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    seed: Option<Seed>,
    stop: Option<Stop>,
    /// Ours: how the stream behaves while the answer waits, and when the client goes away.
    shoal: Option<Extension>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Extension {
    /// Whether the stream says how the answer stands.
    status: Option<bool>,
    /// Seconds that the answer outlives the client's connection.
    resume_s: Option<u64>,
    /// The chat that the answer is written into.
    chat: Option<String>,
    /// The id of the answer's message.
    message: Option<String>,
    /// The message that it answers.
    parent: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Message {
    role: String,
    content: Option<Content>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// The text of a message: a string, or parts of which only text is supported.
#[derive(Debug)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

/// One stop string or a list of them.
#[derive(Debug)]
struct Stop(Vec<String>);

/// The bits of a seed: any integer of 64 bits, with a sign or without.
#[derive(Debug, Clone, Copy)]
struct Seed(u64);

/// A request that is understood.
#[derive(Debug, PartialEq)]
pub(crate) struct Call {
    /// What the node is asked.
    pub(crate) generate: GenerateRequest,
    /// How the answer comes as server-sent events, if it does.
    pub(crate) stream: Option<StreamCall>,
    /// Where the answer is written beside.
    pub(crate) place: Option<Place>,
}

/// What a stream is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamCall {
    /// Whether it ends with the usage.
    pub(crate) include_usage: bool,
    /// Whether it says how the answer stands.
    pub(crate) wants_status: bool,
    /// How long the answer outlives the client's connection, if at all.
    pub(crate) resume: Option<Duration>,
}

impl ChatRequest {
    /// Checks everything that can be checked without the model. `random_seed` is used if the request names none.
    pub(crate) fn into_call(mut self, random_seed: u64) -> Result<Call, ApiError> {
        let samplers = Samplers::take(&mut self.rest)?;
        check_rest("", &self.rest, &NEUTRAL)?;
        let stream = self.stream_call()?;
        let place = self.shoal.as_ref().map(Extension::place).transpose()?.flatten();
        let plain = SamplingParams {
            temperature: self.temperature.unwrap_or(1.0),
            top_p: self.top_p.unwrap_or(1.0),
            seed: self.seed.map_or(random_seed, |seed| seed.0),
            ..SamplingParams::default()
        };
        let max_tokens = self.max_tokens()?;
        let (sampling, breakers) = samplers.into_params(plain)?;
        if self.messages.is_empty() {
            return Err(ApiError::invalid("messages", "expected at least one, got none"));
        }
        let messages = self.messages.into_iter().enumerate();
        let messages = messages
            .map(|(i, message)| message.into_chat_message(&format!("messages[{i}]")))
            .collect::<Result<_, _>>()?;
        let stop = self.stop.map_or_else(Vec::new, |stop| stop.0);
        if stop.len() > STOPS_MAX {
            let message = format!("expected at most {STOPS_MAX} strings, got {}", stop.len());
            return Err(ApiError::invalid("stop", message));
        }
        if stop.iter().any(String::is_empty) {
            return Err(ApiError::invalid("stop", "expected text, got an empty string"));
        }
        Ok(Call {
            generate: GenerateRequest {
                model: self.model,
                prompt: Prompt::Chat(messages),
                sampling,
                breakers,
                max_tokens,
                stop,
            },
            stream,
            place,
        })
    }

    fn stream_call(&self) -> Result<Option<StreamCall>, ApiError> {
        let include_usage = self.stream_options.as_ref().and_then(|it| it.include_usage);
        let extension = self.shoal.as_ref();
        let wants_status = extension.and_then(|it| it.status).unwrap_or(false);
        let resume_s = extension.and_then(|it| it.resume_s).unwrap_or(0);
        if resume_s > RESUME_S_MAX {
            let message = format!("expected at most {RESUME_S_MAX}, got {resume_s}");
            return Err(ApiError::invalid("shoal.resume_s", message));
        }
        if self.stream != Some(true) {
            let wanted = [("shoal.status", wants_status), ("shoal.resume_s", resume_s > 0)];
            return match wanted.iter().find(|(_, is_wanted)| *is_wanted) {
                Some((field, _)) => Err(ApiError::invalid(*field, "only streams have it")),
                None => Ok(None),
            };
        }
        Ok(Some(StreamCall {
            include_usage: include_usage.unwrap_or(false),
            wants_status,
            resume: (resume_s > 0).then(|| Duration::from_secs(resume_s)),
        }))
    }

    /// `max_completion_tokens`, or by its older name `max_tokens`.
    fn max_tokens(&self) -> Result<Option<u32>, ApiError> {
        let (name, max_tokens) = match (self.max_completion_tokens, self.max_tokens) {
            (Some(new), Some(old)) if new != old => {
                let message = format!("expected the same as max_tokens ({old}), got {new}");
                return Err(ApiError::invalid("max_completion_tokens", message));
            }
            (Some(new), _) => ("max_completion_tokens", Some(new)),
            (None, old) => ("max_tokens", old),
        };
        if max_tokens == Some(0) {
            return Err(ApiError::invalid(name, "expected at least 1, got 0"));
        }
        Ok(max_tokens)
    }
}

impl Extension {
    /// Where the answer is written, if it is: the chat and the message have to be named together.
    fn place(&self) -> Result<Option<Place>, ApiError> {
        let parent = self.parent.as_deref();
        match (&self.chat, &self.message) {
            (Some(chat), Some(message)) => Ok(Some(Place {
                chat: read_id("shoal.chat", chat)?,
                message: read_id("shoal.message", message)?,
                parent: parent.map(|parent| read_id("shoal.parent", parent)).transpose()?,
            })),
            (None, None) if parent.is_none() => Ok(None),
            (None, _) => Err(ApiError::invalid("shoal.chat", "expected a chat, got nothing")),
            (_, None) => Err(ApiError::invalid("shoal.message", "expected an id, got nothing")),
        }
    }
}

impl Message {
    /// Returns the message for the template. `path` is where it stands, for errors.
    fn into_chat_message(self, path: &str) -> Result<ChatMessage, ApiError> {
        check_rest(path, &self.rest, &NEUTRAL_IN_MESSAGE)?;
        let role = match self.role.as_str() {
            "system" | "user" | "assistant" => self.role.as_str(),
            // The newer name of the same role.
            "developer" => "system",
            other => {
                let expected = "expected system, developer, user or assistant";
                return Err(ApiError::invalid(
                    format!("{path}.role"),
                    format!("{expected}, got {other:?}"),
                ));
            }
        };
        let text = match self.content {
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => join_parts(parts, path)?,
            None => {
                return Err(ApiError::invalid(
                    format!("{path}.content"),
                    "expected text, got nothing",
                ));
            }
        };
        Ok(ChatMessage::new(role, text))
    }
}

/// Joins text parts, each a line of its own: a template knows only text.
fn join_parts(parts: Vec<Part>, path: &str) -> Result<String, ApiError> {
    let mut texts = Vec::with_capacity(parts.len());
    for (i, part) in parts.into_iter().enumerate() {
        match (part.kind.as_str(), part.text) {
            ("text", Some(text)) => texts.push(text),
            ("text", None) => {
                let field = format!("{path}.content[{i}].text");
                return Err(ApiError::invalid(field, "expected text, got nothing"));
            }
            (other, _) => {
                let field = format!("{path}.content[{i}].type");
                let message = format!("expected \"text\", got {other:?}: only text is supported");
                return Err(ApiError::invalid(field, message));
            }
        }
    }
    Ok(texts.join("\n"))
}

/// Refuses fields that nobody knows, and those that ask for what this node cannot do.
fn check_rest(
    path: &str,
    rest: &Map<String, Value>,
    neutral: &[(&str, Neutral)],
) -> Result<(), ApiError> {
    for (name, value) in rest {
        let field = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let Some((_, neutral)) = neutral.iter().find(|(known, _)| known == name) else {
            return Err(ApiError::invalid(field, "no such field"));
        };
        match neutral {
            _ if value.is_null() => {}
            Neutral::Anything => {}
            Neutral::Only(values) if values.contains(&value.to_string().as_str()) => {}
            Neutral::Only([]) => return Err(ApiError::invalid(field, "not supported")),
            Neutral::Only(values) => {
                let message = format!("not supported: expected {} or nothing", values.join(" or "));
                return Err(ApiError::invalid(field, message));
            }
        }
    }
    Ok(())
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;

        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a list of parts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Content, E> {
                Ok(Content::Text(text))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Content, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(Content::Parts)
            }
        }

        deserializer.deserialize_any(ContentVisitor)
    }
}

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StopVisitor;

        impl<'de> Visitor<'de> for StopVisitor {
            type Value = Stop;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Stop, E> {
                Ok(Stop(vec![text.to_owned()]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Stop, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(Stop)
            }
        }

        deserializer.deserialize_any(StopVisitor)
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SeedVisitor;

        impl Visitor<'_> for SeedVisitor {
            type Value = Seed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer of 64 bits")
            }

            fn visit_u64<E: de::Error>(self, seed: u64) -> Result<Seed, E> {
                Ok(Seed(seed))
            }

            fn visit_i64<E: de::Error>(self, seed: i64) -> Result<Seed, E> {
                Ok(Seed(seed.cast_unsigned()))
            }
        }

        deserializer.deserialize_any(SeedVisitor)
    }
}

#[cfg(test)]
mod tests;
