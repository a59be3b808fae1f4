//! `shoal list`: the models on this device.

use shoal_api::view::{StoredState, StoredView};

use crate::{
    amount,
    args::ListArgs,
    failure::Failure,
    library, output,
    table::{self, Column},
    terminal,
};

const COLUMNS: [Column; 5] = [
    Column::text("NAME"),
    Column::number("SIZE"),
    Column::number("ON DISK").optional(),
    Column::text("STATE"),
    Column::text("WHERE"),
];

pub(crate) async fn list(args: &ListArgs) -> Result<(), Failure> {
    let node = library::open(&args.storage).await?;
    let stored = node.stored().await;
    node.shutdown().await;
    let models: Vec<StoredView> = stored?.into_iter().map(StoredView::from).collect();
    if args.json {
        return output::print_json(&models);
    }
    output::print(&format(&models, terminal::width()))
}

fn format(models: &[StoredView], width: usize) -> String {
    if models.is_empty() {
        return table::paragraph(
            "no models on this device; `shoal models` shows what there is, `shoal pull` gets one",
            width,
        );
    }
    let row = |model: &StoredView| {
        vec![
            model.name.clone(),
            amount::bytes(model.n_bytes),
            amount::bytes(model.n_bytes_on_disk),
            state(model),
            place(&model.place).to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = models.iter().map(row).collect();
    table::render(&COLUMNS, &rows, width)
}

/// How a model on the device is, in words.
pub(crate) fn state(model: &StoredView) -> String {
    match &model.state {
        StoredState::Whole => "whole".to_owned(),
        StoredState::Partial { n_bytes_held } => {
            let percent = u128::from(*n_bytes_held) * 100 / u128::from(model.n_bytes.max(1));
            format!("{percent} %")
        }
        StoredState::Damaged { what } => format!("damaged: {what}"),
    }
}

/// Whose a model on the device is, in words.
pub(crate) fn place(place: &str) -> &str {
    match place {
        "own" => "here",
        "hugging_face" => "Hugging Face cache",
        "ollama" => "Ollama",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, state: StoredState, place: &str) -> StoredView {
        StoredView {
            name: name.to_owned(),
            place: place.to_owned(),
            state,
            n_bytes: 397_807_936,
            n_bytes_on_disk: 246_000_000,
            dir: "/models".to_owned(),
            modified: 0,
        }
    }

    #[test]
    fn every_width_shows_every_name_and_state() {
        let models = [
            model("bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", StoredState::Whole, "own"),
            model("mine", StoredState::Partial { n_bytes_held: 246_000_000 }, "own"),
            model("other", StoredState::Damaged { what: "the header ends early".into() }, "ollama"),
        ];
        for width in [40, 60, 80, 120] {
            let text = format(&models, width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            for part in ["mine", "other", "whole", "61 %", "damaged", "Ollama", "398 MB"] {
                assert!(text.contains(part), "{width}: {part}:\n{text}");
            }
        }
        let wide = format(&models, 120);
        assert!(wide.contains("bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M"), "{wide}");
    }

    #[test]
    fn an_empty_device_is_told_what_to_do() {
        assert!(format(&[], 40).contains("shoal pull"));
    }
}
