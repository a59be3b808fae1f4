//! `shoal run`: an answer on standard output and nothing else there, or a chat.

use std::io::{BufRead, IsTerminal, Read, Write};

use shoal_node::{
    BREAKERS, ChatMessage, Config, Event, GenerateRequest, Node, PlaceRequest, Prompt, Timings,
    Usage,
    proto::{Dry, SamplingParams},
};

use crate::{args::RunArgs, failure::Failure, library, pull};

pub(crate) async fn run(args: RunArgs) -> Result<(), Failure> {
    // What is not a name needs no directory of models, and so not even a home.
    let is_here = args.model == "demo" || std::path::Path::new(&args.model).is_file();
    let library = if is_here { None } else { Some(library::storage(&args.storage)?) };
    let node = Node::start(Config {
        name: "run".into(),
        library,
        n_threads: args.compute.threads.map(usize::from),
        n_ctx: args.compute.context,
        isa: args.compute.isa.clone(),
        ..Config::default()
    })
    .await?;
    let result = answer(node.clone(), args, is_here).await;
    node.shutdown().await;
    result
}

async fn answer(node: Node, args: RunArgs, is_here: bool) -> Result<(), Failure> {
    let model = match is_here {
        true => args.model.clone(),
        false => pull::fetch(&node, &args.model, false).await?,
    };
    let instance = node.place(PlaceRequest { model, ..PlaceRequest::default() }).await?;
    Session { node, model: instance.record.model.name, args }.run().await
}

struct Session {
    node: Node,
    model: String,
    args: RunArgs,
}

impl Session {
    async fn run(&self) -> Result<(), Failure> {
        let stdin = std::io::stdin();
        let prompt = match &self.args.prompt {
            Some(prompt) => prompt.clone(),
            None if stdin.is_terminal() => return self.chat().await,
            None => {
                let mut text = String::new();
                stdin.lock().read_to_string(&mut text)?;
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
        };
        let prompt = if self.args.raw {
            Prompt::Raw(prompt)
        } else {
            Prompt::Chat(vec![ChatMessage::new("user", prompt)])
        };
        self.answer(prompt).await.map(drop)
    }

    /// Reads a line, answers it, and so on until the input ends.
    async fn chat(&self) -> Result<(), Failure> {
        let mut messages = Vec::new();
        let mut lines = std::io::stdin().lock().lines();
        loop {
            write_out("> ")?;
            let Some(line) = lines.next().transpose()? else { break };
            if line.trim().is_empty() {
                continue;
            }
            messages.push(ChatMessage::new("user", line));
            let answer = self.answer(Prompt::Chat(messages.clone())).await?;
            messages.push(ChatMessage::new("assistant", answer));
        }
        write_out("\n")
    }

    /// Prints the answer as it comes and returns it.
    async fn answer(&self, prompt: Prompt) -> Result<String, Failure> {
        let args = &self.args;
        let seed = match args.seed {
            Some(seed) => seed,
            None => shoal_node::random_u64()?,
        };
        let request = GenerateRequest {
            model: self.model.clone(),
            prompt,
            sampling: SamplingParams {
                temperature: args.temperature,
                top_k: args.top_k,
                top_p: args.top_p,
                min_p: args.min_p,
                typical_p: args.typical_p,
                top_n_sigma: args.top_n_sigma,
                xtc_probability: args.xtc_probability,
                xtc_threshold: args.xtc_threshold,
                repeat_penalty: args.repeat_penalty,
                frequency_penalty: args.frequency_penalty,
                presence_penalty: args.presence_penalty,
                dry: Dry { multiplier: args.dry_multiplier, ..Dry::default() },
                seed,
                ..SamplingParams::default()
            },
            breakers: BREAKERS.map(String::from).to_vec(),
            max_tokens: args.max_tokens,
            stop: args.stop.clone(),
        };
        let mut generation = self.node.generate(request).await?;
        let mut answer = String::new();
        while let Some(event) = generation.next().await {
            match event {
                Event::Queued { .. }
                | Event::Started { .. }
                | Event::Healing { .. }
                | Event::Resumed { .. } => {}
                Event::Text(text) => {
                    write_out(&text)?;
                    answer.push_str(&text);
                }
                Event::Finished { usage, timings, .. } => {
                    write_out("\n")?;
                    if args.stats {
                        let line = stats(&usage, &timings);
                        std::io::stderr().write_all(line.as_bytes())?;
                    }
                }
                Event::Failed(error) => return Err(error.into()),
            }
        }
        Ok(answer)
    }
}

/// Writes to standard output at once. A reader that has gone away is no failure of ours.
fn write_out(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn stats(usage: &Usage, timings: &Timings) -> String {
    let n_prompt = f64::from(usage.n_prompt - usage.n_cached);
    let n_after_first = f64::from(usage.n_generated.saturating_sub(1));
    let per_s = |n: f64, seconds: f64| if seconds > 0.0 { n / seconds } else { 0.0 };
    format!(
        "prompt: {} tokens, {:.1} tokens/s | generation: {} tokens, {:.1} tokens/s | first token after {:.0} ms\n",
        usage.n_prompt,
        per_s(n_prompt, timings.first_token.as_secs_f64()),
        usage.n_generated,
        per_s(n_after_first, timings.generation.as_secs_f64()),
        timings.first_token.as_secs_f64() * 1e3,
    )
}
