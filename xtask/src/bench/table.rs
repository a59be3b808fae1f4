//! Measurements as a table.

use serde_json::{Value, json};

use super::record::{Record, Sample};
use super::weights::Weights;
use super::{FIRST_TOKEN_PROMPT, output};

/// One engine in one row, in its best configuration.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cell {
    pub(super) engine: String,
    pub(super) variant: String,
    pub(super) median: f64,
    /// Half of what lies between the least and the greatest, as a share of the median.
    pub(super) spread: f64,
    /// How many times better Shoal was: the median of the ratios of each round.
    pub(super) ratio: f64,
}

/// One test with one number of threads.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) title: String,
    pub(super) n_threads: usize,
    /// Shoal first.
    pub(super) cells: Vec<Cell>,
    /// What that is of what is possible.
    pub(super) share: String,
}

/// All rows of a model.
pub(super) fn rows(record: &Record, model: &str, weights: &Weights) -> Vec<Row> {
    let here: Vec<&Sample> = record.samples.iter().filter(|sample| sample.model == model).collect();
    let mut tests: Vec<&str> = Vec::new();
    let mut threads: Vec<usize> = Vec::new();
    for sample in here.iter().filter(|sample| sample.engine != "machine") {
        if !tests.contains(&sample.test.as_str()) {
            tests.push(&sample.test);
        }
        if !threads.contains(&sample.n_threads) {
            threads.push(sample.n_threads);
        }
    }
    let mut rows = Vec::new();
    for test in tests {
        for &n_threads in &threads {
            let view = View { samples: &here, n_threads };
            let cells = view.cells(test);
            if cells.first().is_some_and(|cell| cell.engine == "Shoal") {
                let share = view.share(test, &cells, weights);
                rows.push(Row { title: title(test), n_threads, cells, share });
            }
        }
    }
    rows
}

fn is_first_token(test: &str) -> bool {
    test == output::prompt(FIRST_TOKEN_PROMPT, 0)
}

fn title(test: &str) -> String {
    if is_first_token(test) { "first token ms".to_owned() } else { test.to_owned() }
}

/// Whether less is better.
fn is_cost(test: &str) -> bool {
    is_first_token(test) || test.ends_with(" ms") || test.ends_with(" MB")
}

/// The measurements of a model with one number of threads.
struct View<'a> {
    samples: &'a [&'a Sample],
    n_threads: usize,
}

impl View<'_> {
    /// Figures by round.
    fn values(&self, engine: &str, variant: &str, test: &str) -> Vec<(usize, f64)> {
        let figures = self.samples.iter().filter(|sample| {
            sample.n_threads == self.n_threads
                && sample.engine == engine
                && sample.variant == variant
                && sample.test == test
        });
        let value = |sample: &Sample| match is_first_token(test) {
            true => FIRST_TOKEN_PROMPT as f64 / sample.value * 1e3,
            false => sample.value,
        };
        figures.map(|sample| (sample.round, value(sample))).collect()
    }

    fn median(&self, engine: &str, variant: &str, test: &str) -> Option<f64> {
        let values: Vec<f64> =
            self.values(engine, variant, test).iter().map(|&(_, value)| value).collect();
        median(&values)
    }

    /// Each engine that was measured, in its best configuration; Shoal first.
    fn cells(&self, test: &str) -> Vec<Cell> {
        let mut cells: Vec<Cell> = Vec::new();
        let ours = self.values("Shoal", "", test);
        for sample in self.samples.iter().filter(|sample| sample.engine != "machine") {
            let known = cells
                .iter()
                .any(|cell| cell.engine == sample.engine && cell.variant == sample.variant);
            let theirs = self.values(&sample.engine, &sample.variant, test);
            let figures: Vec<f64> = theirs.iter().map(|&(_, value)| value).collect();
            let Some(median_value) = median(&figures).filter(|_| !known) else { continue };
            let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
            let greatest = figures.iter().copied().fold(0.0, f64::max);
            let ratios: Vec<f64> = theirs
                .iter()
                .filter_map(|(round, theirs)| {
                    let ours = ours.iter().find(|(other, _)| other == round)?.1;
                    Some(if is_cost(test) { theirs / ours } else { ours / theirs })
                })
                .collect();
            cells.push(Cell {
                engine: sample.engine.clone(),
                variant: sample.variant.clone(),
                median: median_value,
                spread: (greatest - least) / 2.0 / median_value,
                ratio: median(&ratios).unwrap_or(f64::NAN),
            });
        }
        let mut best: Vec<Cell> = Vec::new();
        for cell in cells {
            match best.iter_mut().find(|other| other.engine == cell.engine) {
                Some(other) if (cell.median < other.median) == is_cost(test) => *other = cell,
                Some(_) => {}
                None => best.push(cell),
            }
        }
        best.sort_by_key(|cell| cell.engine != "Shoal");
        best
    }

    /// What Shoal's figure is of the roofline, or of the same without depth or batch.
    fn share(&self, test: &str, cells: &[Cell], weights: &Weights) -> String {
        let ours = cells[0].median;
        let of = |rate: f64, unit: &str, limit: Option<f64>| {
            let share =
                limit.map_or(String::new(), |limit| format!(", {:.0} %", 100.0 * rate / limit));
            format!("{rate:.1} {unit}{share}")
        };
        if let Some((plain, _)) = test.split_once(" at ") {
            let kept = cells.iter().filter_map(|cell| {
                let at_zero = self.median(&cell.engine, &cell.variant, plain)?;
                Some(format!("{} keeps {:.0} %", cell.engine, 100.0 * cell.median / at_zero))
            });
            return kept.collect::<Vec<_>>().join(", ");
        }
        if let Some((plain, _)) = test.split_once(" x ") {
            let one = self.median("Shoal", "", plain);
            return one.map_or(String::new(), |one| format!("{:.2} times one", ours / one));
        }
        if test.starts_with("generate ") {
            let limit = self.median("machine", "", "read GB/s");
            return of(ours * weights.token_bytes / 1e9, "GB/s", limit);
        }
        if test.starts_with("prompt ") && !is_first_token(test) {
            let limit = self.median("machine", "", "int8 GMAC/s");
            return of(ours * weights.prompt_products / 1e9, "GMAC/s", limit);
        }
        String::new()
    }
}

/// The middle value, or the mean of the two in the middle.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[middle - 1], upper) })
}

/// The engines of a table, Shoal first, then as they were measured.
fn engines(rows: &[Row]) -> Vec<&str> {
    let mut engines: Vec<&str> = Vec::new();
    for cell in rows.iter().flat_map(|row| &row.cells) {
        if !engines.contains(&cell.engine.as_str()) {
            engines.push(&cell.engine);
        }
    }
    engines
}

fn text(cell: &Cell) -> String {
    let digits = if cell.median < 1000.0 { 1 } else { 0 };
    let variant = cell.variant.trim_start_matches('-');
    let variant = if variant.is_empty() { String::new() } else { format!(" ({variant})") };
    format!("{:.digits$} ± {:.0} %{variant}", cell.median, 100.0 * cell.spread)
}

pub(super) fn markdown(model: &str, rows: &[Row]) -> String {
    let engines = engines(rows);
    let mut table =
        format!("| {model} | threads | {} | × best | of what is possible |\n", engines.join(" | "));
    table += &format!("|---|--:|{}--:|---|\n", "--:|".repeat(engines.len()));
    for row in rows {
        table += &format!("| {} | {} ", row.title, row.n_threads);
        for engine in &engines {
            let cell = row.cells.iter().find(|cell| cell.engine == *engine);
            let figure = cell.map(text).unwrap_or_default();
            let ratio =
                cell.filter(|_| *engine != "Shoal").map(|cell| format!("; {:.2}", cell.ratio));
            table += &format!("| {figure}{} ", ratio.unwrap_or_default());
        }
        let best = worst_ratio(row).map(|ratio| format!("**{ratio:.2}**")).unwrap_or_default();
        table += &format!("| {best} | {} |\n", row.share);
    }
    table
}

/// How many times better Shoal was than the engine that came closest.
pub(super) fn worst_ratio(row: &Row) -> Option<f64> {
    let others = row.cells.iter().filter(|cell| !cell.engine.eq_ignore_ascii_case("shoal"));
    others.map(|cell| cell.ratio).reduce(f64::min)
}

pub(super) fn json(model: &str, rows: &[Row]) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let cells: Vec<Value> = row
                .cells
                .iter()
                .map(|cell| {
                    json!({
                        "engine": cell.engine, "variant": cell.variant, "median": cell.median,
                        "spread": cell.spread, "ratio": cell.ratio,
                    })
                })
                .collect();
            json!({"test": row.title, "n_threads": row.n_threads, "engines": cells, "share": row.share})
        })
        .collect();
    json!({"model": model, "rows": rows})
}
