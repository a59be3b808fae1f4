//! How each engine is called.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::{output, process};

/// What is measured in one go.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) model: PathBuf,
    pub(super) n_threads: usize,
    pub(super) prompts: Vec<usize>,
    pub(super) generate: usize,
    pub(super) depths: Vec<usize>,
    pub(super) batches: Vec<usize>,
    /// Whether the time from a program's start to its first token is measured.
    pub(super) with_start: bool,
}

/// Name of a test and its figure, in the unit that the name implies.
pub(super) type Figure = (String, f64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Shoal,
    LlamaCpp,
    IkLlamaCpp,
    Cera,
    Candle,
}

/// An engine and where it is.
#[derive(Debug)]
pub(super) struct Engine {
    kind: Kind,
    /// What the table calls it.
    pub(super) name: String,
    path: PathBuf,
}

impl Engine {
    /// Shoal as it is built from this repository.
    pub(super) fn shoal(path: PathBuf) -> Self {
        Self { kind: Kind::Shoal, name: "Shoal".to_owned(), path }
    }

    /// Parses NAME=PATH.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let (name, path) =
            text.split_once('=').with_context(|| format!("{text}: expected NAME=PATH"))?;
        let kind = match name {
            "llama.cpp" => Kind::LlamaCpp,
            "ik_llama.cpp" => Kind::IkLlamaCpp,
            "cera" => Kind::Cera,
            "candle" => Kind::Candle,
            "shoal" => Kind::Shoal,
            _ => bail!("{name}: expected llama.cpp, ik_llama.cpp, cera, candle or shoal"),
        };
        let path = PathBuf::from(path);
        Ok(Self { kind, name: name.to_owned(), path })
    }

    /// Whether there is something at its path.
    pub(super) fn is_there(&self) -> bool {
        self.path.exists()
    }

    /// Whether this is the build that everything is compared with.
    pub(super) fn is_shoal(&self) -> bool {
        self.name == "Shoal"
    }

    /// The configurations of which the best counts.
    pub(super) fn variants(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::LlamaCpp => &["--repack 0", "--repack 1"],
            Kind::IkLlamaCpp => &["-rtr 0", "-rtr 1"],
            Kind::Shoal | Kind::Cera | Kind::Candle => &[""],
        }
    }

    /// Measures everything once.
    pub(super) fn measure(&self, variant: &str, work: &Work) -> anyhow::Result<Vec<Figure>> {
        let mut figures = match self.kind {
            Kind::Cera => self.measure_cera(work)?,
            _ => self.measure_at_depths(variant, work)?,
        };
        if work.with_start
            && let Some(mut command) = self.start(variant, work)
        {
            figures.push((
                "start ms".to_owned(),
                process::run(&mut command)?.wall.as_secs_f64() * 1e3,
            ));
        }
        Ok(figures)
    }

    /// Prompts and generation in an empty context in one process, of which the peak memory counts; then each depth.
    fn measure_at_depths(&self, variant: &str, work: &Work) -> anyhow::Result<Vec<Figure>> {
        let mut figures = Vec::new();
        for &depth in &work.depths {
            let ended = process::run(&mut self.bench(variant, work, depth))?;
            figures.extend(match self.kind {
                Kind::Shoal => output::shoal(&ended.stdout)?,
                _ => output::llama_bench(&ended.stdout)?,
            });
            if depth == 0
                && let Some(bytes) = ended.peak_rss_bytes
            {
                figures.push(("memory MB".to_owned(), bytes as f64 / 1e6));
            }
        }
        Ok(figures)
    }

    /// The call that measures at one depth, with one repetition.
    fn bench(&self, variant: &str, work: &Work, depth: usize) -> Command {
        let mut command = match self.kind {
            Kind::LlamaCpp | Kind::IkLlamaCpp => Command::new(self.path.join("llama-bench")),
            _ => Command::new(&self.path),
        };
        let generate = work.generate.to_string();
        let prompts = if depth == 0 { list(&work.prompts) } else { "0".to_owned() };
        match self.kind {
            Kind::Shoal => {
                command.arg("bench").arg(&work.model).args(["--json", "-b", &list(&work.batches)])
            }
            _ => command.arg("-m").arg(&work.model).args(["-o", "json"]),
        };
        command
            .args(["-r", "1", "-t", &work.n_threads.to_string()])
            .args(variant.split_whitespace());
        if self.kind == Kind::IkLlamaCpp && depth > 0 {
            // It has no option for the depth, but for generation after a prompt.
            return with(command, &["-p", "0", "-n", "0", "-gp", &format!("{depth},{generate}")]);
        }
        command.args(["-p", &prompts, "-n", &generate]);
        if depth > 0 {
            command.args(["-d", &depth.to_string()]);
        }
        command
    }

    /// `cera bench` reads one prompt at a time and generates after it: generation counts after the shortest.
    fn measure_cera(&self, work: &Work) -> anyhow::Result<Vec<Figure>> {
        let mut figures = Vec::new();
        for &n_prompt in &work.prompts {
            let is_first = figures.is_empty();
            let n_generate = if is_first { work.generate } else { 1 };
            let mut command = Command::new(&self.path);
            command.env("CERA_THREADS", work.n_threads.to_string());
            command.args([
                "bench",
                "--device",
                "cpu",
                "--no-cache",
                "--runs",
                "1",
                "--warmup",
                "1",
            ]);
            command.arg("--model").arg(&work.model);
            command.args([
                "--prompt-tokens",
                &n_prompt.to_string(),
                "--max-tokens",
                &n_generate.to_string(),
            ]);
            let ended = process::run(&mut command)?;
            let speeds = output::cera(&ended.stderr)?;
            figures.push((output::prompt(n_prompt, 0), speeds.prompt_per_s));
            if is_first {
                figures.push((output::generate(n_generate, 0, 1), speeds.generate_per_s));
            }
            if n_prompt == work.prompts.iter().copied().max().unwrap_or(0)
                && let Some(bytes) = ended.peak_rss_bytes
            {
                figures.push(("memory MB".to_owned(), bytes as f64 / 1e6));
            }
        }
        Ok(figures)
    }

    /// The call that answers a word with one token, if the engine has a program for it.
    fn start(&self, variant: &str, work: &Work) -> Option<Command> {
        let threads = work.n_threads.to_string();
        match self.kind {
            Kind::Shoal => {
                let mut command = Command::new(&self.path);
                command.arg("run").arg(&work.model);
                let ask = ["hi", "--raw", "--max-tokens", "1", "--temperature", "0"];
                Some(with(command, &ask)).map(|command| with(command, &["--threads", &threads]))
            }
            Kind::LlamaCpp | Kind::IkLlamaCpp => {
                let programs = ["llama-completion", "llama-cli"].map(|name| self.path.join(name));
                let mut command = Command::new(programs.iter().find(|path| path.exists())?);
                command
                    .arg("-m")
                    .arg(&work.model)
                    .args(["-p", "hi", "-n", "1", "-c", "512", "-t", &threads]);
                Some(with(
                    command,
                    match (self.kind, variant) {
                        (Kind::LlamaCpp, "--repack 0") => {
                            &["--no-warmup", "-no-cnv", "--no-repack"]
                        }
                        (Kind::LlamaCpp, _) => &["--no-warmup", "-no-cnv"],
                        (_, "-rtr 1") => &["-rtr"],
                        _ => &[],
                    },
                ))
            }
            Kind::Cera => {
                let mut command = Command::new(&self.path);
                command.env("CERA_THREADS", threads).arg("run").arg("--model").arg(&work.model);
                Some(with(command, &["--device", "cpu", "-p", "hi", "--max-tokens", "1"]))
            }
            Kind::Candle => None,
        }
    }
}

fn with(mut command: Command, args: &[&str]) -> Command {
    command.args(args);
    command
}

fn list(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
impl Engine {
    /// The arguments with which a depth is measured.
    pub(super) fn args(&self, variant: &str, work: &Work, depth: usize) -> String {
        let command = self.bench(variant, work, depth);
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        args.join(" ")
    }
}
