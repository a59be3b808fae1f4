//! What is accepted, what it becomes, and how the rest is refused.

use serde_json::{Value, json};

use super::*;
use crate::body;

const RANDOM_SEED: u64 = 99;

/// A minimal request with `extra` put over it.
fn request(extra: &Value) -> Value {
    let mut request = json!({"model": "demo", "messages": [{"role": "user", "content": "Hi"}]});
    let fields = request.as_object_mut().expect("an object");
    fields.extend(extra.as_object().expect("an object").clone());
    request
}

fn read(body: &Value) -> Result<Call, ApiError> {
    body::parse::<ChatRequest>(body.to_string().as_bytes())?.into_call(RANDOM_SEED)
}

#[track_caller]
fn accepted(extra: &Value) -> Call {
    match read(&request(extra)) {
        Ok(call) => call,
        Err(error) => panic!("{extra} was refused: {}", error.to_json()),
    }
}

/// The request is refused: 400, `param`, and a message that contains `expected`.
#[track_caller]
fn refused(body: &Value, param: &str, expected: &str) {
    let error = match read(body) {
        Ok(call) => panic!("{body} was accepted: {call:?}"),
        Err(error) => error.to_json()["error"].clone(),
    };
    assert_eq!(error["param"], param, "{error}");
    assert_eq!(error["type"], "invalid_request_error", "{error}");
    let message = error["message"].as_str().expect("text");
    assert!(message.starts_with(&format!("{param}: ")), "{message}");
    assert!(message.contains(expected), "expected {expected:?} in {message:?}");
}

fn messages(call: &Call) -> Vec<(&str, &str)> {
    let Prompt::Chat(messages) = &call.generate.prompt else { panic!("a chat is a chat") };
    messages.iter().map(|message| (message.role.as_str(), message.content.as_str())).collect()
}

#[test]
fn the_least_request_has_the_documented_defaults() {
    let call = accepted(&json!({}));
    assert_eq!(call.generate.model, "demo");
    assert_eq!(messages(&call), [("user", "Hi")]);
    let expected = SamplingParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        seed: RANDOM_SEED,
        ..SamplingParams::default()
    };
    assert_eq!(call.generate.sampling, expected);
    assert_eq!((call.generate.max_tokens, call.generate.stop.len()), (None, 0));
    assert_eq!(call.stream, None);
}

#[test]
fn every_parameter_reaches_the_node() {
    let call = accepted(&json!({
        "temperature": 0, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1,
        "seed": 7, "stop": ["a", "b"], "max_tokens": 12, "stream": true,
        "stream_options": {"include_usage": true},
    }));
    let sampling = &call.generate.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (0.0, 0.9, 40));
    assert_eq!((sampling.min_p, sampling.repeat_penalty, sampling.seed), (0.05, 1.1, 7));
    assert_eq!(call.generate.stop, ["a", "b"]);
    assert_eq!(call.generate.max_tokens, Some(12));
    let stream = StreamCall { include_usage: true, wants_status: false, resume: None };
    assert_eq!(call.stream, Some(stream));
    let both = accepted(&json!({"max_tokens": 5, "max_completion_tokens": 5, "stop": "x"}));
    assert_eq!((both.generate.max_tokens, both.generate.stop), (Some(5), vec!["x".to_owned()]));
    let nothing = accepted(&json!({"stop": null, "seed": null, "max_tokens": null}));
    assert_eq!(nothing, accepted(&json!({})));
}

#[test]
fn a_seed_is_any_integer_of_64_bits() {
    for (seed, bits) in [(json!(-1), u64::MAX), (json!(u64::MAX), u64::MAX), (json!(0), 0)] {
        assert_eq!(accepted(&json!({"seed": seed})).generate.sampling.seed, bits);
    }
    refused(&request(&json!({"seed": 1.5})), "seed", "1.5");
    refused(&request(&json!({"seed": "7"})), "seed", "string");
    let text = request(&json!({"seed": 0})).to_string();
    let large = text.replace("\"seed\":0", "\"seed\":18446744073709551616");
    let error = body::parse::<ChatRequest>(large.as_bytes())
        .and_then(|request| request.into_call(RANDOM_SEED))
        .expect_err("65 bits");
    assert_eq!(error.to_json()["error"]["param"], "seed");
}

#[test]
fn roles_and_parts_become_plain_messages() {
    let call = accepted(&json!({"messages": [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]},
        {"role": "assistant", "content": "Yes.", "refusal": null, "tool_calls": [], "annotations": []},
        {"role": "user", "content": ""},
    ]}));
    let expected =
        [("system", "Be kind."), ("user", "One.\nTwo."), ("assistant", "Yes."), ("user", "")];
    assert_eq!(messages(&call), expected);
}

#[test]
fn refuses_messages_that_it_cannot_read() {
    let with = |message: Value| request(&json!({"messages": [message]}));
    refused(&request(&json!({"messages": []})), "messages", "at least one");
    refused(&request(&json!({"messages": "Hi"})), "messages", "expected a sequence");
    refused(&with(json!({"role": "tool", "content": "x"})), "messages[0].role", "\"tool\"");
    refused(&with(json!({"role": 3, "content": "x"})), "messages[0].role", "integer `3`");
    refused(&with(json!({"content": "x"})), "messages[0].role", "missing field");
    refused(&with(json!({"role": "user"})), "messages[0].content", "got nothing");
    refused(&with(json!({"role": "user", "content": null})), "messages[0].content", "got nothing");
    refused(&with(json!({"role": "user", "content": 5})), "messages[0].content", "text or a list");
    refused(
        &with(json!({"role": "user", "content": "x", "name": "Ann"})),
        "messages[0].name",
        "not supported",
    );
    refused(
        &with(json!({"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]})),
        "messages[0].tool_calls",
        "not supported",
    );
    refused(
        &with(json!({"role": "user", "content": "x", "mood": "good"})),
        "messages[0].mood",
        "no such field",
    );
    let part = |part: Value| with(json!({"role": "user", "content": [part]}));
    let image = json!({"type": "image_url", "image_url": {"url": "data:"}});
    refused(&part(image), "messages[0].content[0].type", "only text");
    refused(&part(json!({"type": "text"})), "messages[0].content[0].text", "got nothing");
    refused(&part(json!({"text": "x"})), "messages[0].content[0].type", "missing field");
    refused(&part(json!("x")), "messages[0].content[0]", "string");
}

#[test]
fn refuses_parameters_out_of_range() {
    let cases = [
        (json!({"temperature": -0.1}), "temperature", "from 0"),
        (json!({"temperature": "hot"}), "temperature", "\"hot\""),
        (json!({"temperature": 1e300}), "temperature", "from 0"),
        (json!({"top_p": 0}), "top_p", "above 0"),
        (json!({"top_p": 1.5}), "top_p", "at most 1"),
        (json!({"min_p": 2}), "min_p", "from 0 to 1"),
        (json!({"repeat_penalty": 0}), "repeat_penalty", "above 0"),
        (json!({"top_k": -1}), "top_k", "-1"),
        (json!({"max_tokens": 0}), "max_tokens", "at least 1"),
        (json!({"max_tokens": -5}), "max_tokens", "-5"),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens", "at least 1"),
        (
            json!({"max_tokens": 1, "max_completion_tokens": 2}),
            "max_completion_tokens",
            "the same as max_tokens (1)",
        ),
        (json!({"stop": ""}), "stop", "empty"),
        (json!({"stop": ["a", ""]}), "stop", "empty"),
        (json!({"stop": 5}), "stop", "a string or a list"),
        (json!({"stop": ["a", 5]}), "stop[1]", "integer `5`"),
        (json!({"stop": vec!["x"; 17]}), "stop", "at most 16"),
        (json!({"stream": "yes"}), "stream", "boolean"),
        (json!({"shoal": {"status": true}}), "shoal.status", "only streams"),
        (json!({"shoal": {"resume_s": 5}}), "shoal.resume_s", "only streams"),
        (json!({"stream": true, "shoal": {"resume_s": 601}}), "shoal.resume_s", "at most 600"),
        (
            json!({"stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
            "boolean",
        ),
        (json!({"model": 5}), "model", "integer `5`"),
    ];
    for (extra, param, expected) in cases {
        refused(&request(&extra), param, expected);
    }
}

#[test]
fn refuses_what_it_cannot_do() {
    let schema = json!({"type": "json_schema", "json_schema": {}});
    let cases = [
        (json!({"n": 2}), "n"),
        (json!({"tools": [{"type": "function"}]}), "tools"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"functions": [{}]}), "functions"),
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
        (json!({"response_format": schema}), "response_format"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"top_logprobs": 5}), "top_logprobs"),
        (json!({"modalities": ["text", "audio"]}), "modalities"),
        (json!({"audio": {"voice": "alloy"}}), "audio"),
        (json!({"store": true}), "store"),
        (json!({"reasoning_effort": "high"}), "reasoning_effort"),
        (json!({"web_search_options": {}}), "web_search_options"),
    ];
    for (extra, param) in cases {
        refused(&request(&extra), param, "not supported");
    }
    refused(&request(&json!({"temprature": 0.5})), "temprature", "no such field");
}

#[test]
fn accepts_what_asks_for_nothing() {
    let plain = accepted(&json!({}));
    for (name, _) in NEUTRAL {
        assert_eq!(accepted(&json!({name: null})), plain, "{name}");
    }
    let neutral = json!({
        "n": 1, "tools": [], "tool_choice": "none", "response_format": {"type": "text"},
        "logprobs": false, "logit_bias": {}, "frequency_penalty": 0, "presence_penalty": 0.0,
        "user": "ann", "metadata": {"a": "b"}, "store": false, "service_tier": "auto",
        "modalities": ["text"], "stream_options": {"include_usage": false},
    });
    assert_eq!(accepted(&neutral), plain);
}

#[test]
fn a_body_that_is_no_request_says_where() {
    let error = |body: &str| {
        let error = body::parse::<ChatRequest>(body.as_bytes()).expect_err("no request").to_json();
        error["error"]["message"].as_str().expect("text").to_owned()
    };
    assert!(error("").contains("not JSON: EOF"));
    assert!(error("{\"model\": \"demo\",}").contains("line 1 column 18"));
    assert!(error("[]").contains("does not fit"));
    assert!(error("{\"model\": \"a\", \"messages\": []} x").contains("trailing characters"));
    let deep = format!("{{\"metadata\": {}1", "[".repeat(100_000));
    assert!(error(&deep).contains("recursion limit"));
    refused(&json!({"messages": []}), "model", "missing field");
    refused(&json!({"model": "demo"}), "messages", "missing field");
}
