//! Chat templates: a conversation to the text that the model was trained on, by the Jinja template in its own metadata.
//!
//! Templates come with downloaded files, so they are not trusted: the work that one may do is bounded. They are rendered as the
//! `transformers` library configures Jinja2 (`trim_blocks`, `lstrip_blocks`, `raise_exception`, `strftime_now`, a `tojson` that escapes
//! nothing for HTML).

use minijinja::{Environment, ErrorKind, Value, context, syntax::SyntaxConfig, value::Kwargs};
use shoal_gguf::Metadata;

use crate::{Error, Tokenizer, strftime};

/// Instructions that a template may execute: some thousand times those of a long conversation.
const FUEL: u64 = 5_000_000;
/// Depth of calls within a template.
const RECURSION_MAX: usize = 64;
/// The date that templates see when none is given (2024-07-26, the fallback that Llama 3.2's own template names).
const DEFAULT_DATE_S: u64 = 1_721_952_000;
const NAME: &str = "chat";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`; what a role means is the template's business.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl ChatMessage {
    /// Returns a message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Reads the template of a model.
    ///
    /// # Errors
    /// If the model has none or it does not parse.
    pub fn from_metadata(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Self, Error> {
        const KEY: &str = "tokenizer.chat_template";
        let source = metadata.str(KEY)?.ok_or(Error::Missing { key: KEY })?;
        let text = |token: Option<u32>| token.and_then(|token| tokenizer.text(token)).unwrap_or("");
        Self::new(source, text(tokenizer.bos()), text(tokenizer.eos()))
    }

    /// Parses a template; `bos` and `eos` are the texts of the tokens that begin and end a text.
    ///
    /// # Errors
    /// If it does not parse.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .expect("Jinja's own delimiters are valid"),
        );
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION_MAX);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<Value, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|source| Error::TemplateSyntax { source })?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// Renders a conversation.
    ///
    /// - `add_generation_prompt`: whether the text ends where the model's answer begins
    /// - `now_s`: the date that the template may ask for, in seconds since 1970; a fixed one if none is given
    ///
    /// # Errors
    /// If the template raises, does something that is not there, or too much.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
        now_s: Option<u64>,
    ) -> Result<String, Error> {
        let now_s = now_s.unwrap_or(DEFAULT_DATE_S);
        let strftime_now = Value::from_function(move |format: String| {
            strftime::format(now_s, &format)
                .map_err(|message| minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        let run = |template: minijinja::Template<'_, '_>| {
            template.render(context! {
                messages => messages.iter().map(to_value).collect::<Vec<Value>>(),
                add_generation_prompt,
                bos_token => self.bos.as_str(),
                eos_token => self.eos.as_str(),
                strftime_now,
            })
        };
        let template = self.environment.get_template(NAME);
        template.and_then(run).map_err(|source| Error::TemplateRun { source })
    }
}

fn to_value(message: &ChatMessage) -> Value {
    Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())])
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`.
#[expect(clippy::needless_pass_by_value, reason = "the signature that the library asks of filters")]
fn to_json(value: &Value, kwargs: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    kwargs.assert_all_used()?;
    let mut text = String::new();
    write_json(value, indent.map(|indent| (indent, 0)), &mut text)?;
    Ok(Value::from_safe_string(text))
}

/// Writes a value as JSON. `indent` is the width of a level and the level.
fn write_json(
    value: &Value,
    indent: Option<(usize, usize)>,
    out: &mut String,
) -> Result<(), minijinja::Error> {
    use minijinja::value::ValueKind;

    let inner = indent.map(|(width, level)| (width, level + 1));
    let new_line = |out: &mut String, indent: Option<(usize, usize)>| {
        if let Some((width, level)) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', (width * level).min(1024)));
        }
    };
    let separator = if indent.is_some() { "," } else { ", " };
    let (open, close, is_map) = match value.kind() {
        ValueKind::Map => ('{', '}', true),
        ValueKind::Seq | ValueKind::Iterable => ('[', ']', false),
        ValueKind::String => {
            write_json_string(value.as_str().unwrap_or_default(), out);
            return Ok(());
        }
        ValueKind::Undefined | ValueKind::None => {
            out.push_str("null");
            return Ok(());
        }
        // Jinja prints booleans and numbers as JSON does.
        _ => {
            out.push_str(&value.to_string().to_lowercase());
            return Ok(());
        }
    };
    out.push(open);
    let mut is_empty = true;
    for item in value.try_iter()? {
        if !is_empty {
            out.push_str(separator);
        }
        is_empty = false;
        new_line(out, inner);
        if is_map {
            write_json_string(&item.to_string(), out);
            out.push_str(": ");
            write_json(&value.get_item(&item)?, inner, out)?;
        } else {
            write_json(&item, inner, out)?;
        }
    }
    if !is_empty {
        new_line(out, indent);
    }
    out.push(close);
    Ok(())
}

fn write_json_string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            control if u32::from(control) < 0x20 => {
                out.push_str(&format!("\\u{:04x}", u32::from(control)));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, Error> {
        ChatTemplate::new(source, "<s>", "</s>")?.render(
            &[ChatMessage::new("user", "hi \"é\" <b>")],
            true,
            None,
        )
    }

    #[test]
    fn chatml_renders() {
        let source = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + \
                      '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
        let expected = "<|im_start|>user\nhi \"é\" <b><|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(render(source).expect("renders"), expected);
    }

    #[test]
    fn json_is_pythons() {
        let source = "{{ messages | tojson }}|{{ {'a': [1, true, none]} | tojson(indent=2) }}";
        let expected = "[{\"role\": \"user\", \"content\": \"hi \\\"é\\\" <b>\"}]|{\n  \"a\": [\n    1,\n    true,\n    null\n  ]\n}";
        assert_eq!(render(source).expect("renders"), expected);
    }

    #[test]
    fn a_template_that_raises_says_why() {
        let error = render("{{ raise_exception('roles must alternate') }}").expect_err("it raises");
        assert!(
            format!("{:?}", std::error::Error::source(&error)).contains("roles must alternate")
        );
    }

    #[test]
    fn a_template_that_never_ends_runs_out_of_fuel() {
        let source = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{{ c }}{% endfor %}{% endfor %}{% endfor %}";
        assert!(matches!(render(source), Err(Error::TemplateRun { .. })));
    }

    #[test]
    fn a_template_that_does_not_parse_is_refused() {
        assert!(matches!(render("{% if %}"), Err(Error::TemplateSyntax { .. })));
    }
}
