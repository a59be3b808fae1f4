//! `shoal models search`: asks the model hub.

use shoal_api::view::SearchHitView;
use shoal_node::hub::HubClient;

use crate::{
    amount,
    args::SearchArgs,
    failure::Failure,
    library, output,
    table::{self, Column},
    terminal,
};

const COLUMNS: [Column; 4] = [
    Column::text("REPOSITORY"),
    Column::number("DOWNLOADS").optional(),
    Column::text("FORMAT"),
    Column::text(""),
];

pub(crate) async fn search(args: &SearchArgs) -> Result<(), Failure> {
    use shoal_node::hub::LibraryError;

    let client = HubClient::new(library::hub_config()).map_err(LibraryError::from)?;
    let hits = client.search(&args.words.join(" "), usize::from(args.limit)).await;
    let hits = hits.map_err(LibraryError::from)?.into_iter();
    let mut hits: Vec<SearchHitView> = hits.map(SearchHitView::from).collect();
    // What can run comes first; otherwise the hub's order.
    hits.sort_by_key(|hit| hit.format != "gguf");
    if args.json {
        return output::print_json(&hits);
    }
    output::print(&format(&hits, terminal::width()))
}

fn format(hits: &[SearchHitView], width: usize) -> String {
    if hits.is_empty() {
        return table::paragraph("the hub knows no such models", width);
    }
    let row = |hit: &SearchHitView| {
        let format = match hit.format.as_str() {
            "gguf" => "GGUF",
            "mlx" => "MLX, does not run here",
            _ => "other, does not run here",
        };
        let gated = if hit.gated { "gated" } else { "" };
        vec![hit.repo.clone(), amount::count(hit.n_downloads), format.to_owned(), gated.to_owned()]
    };
    let rows: Vec<Vec<String>> = hits.iter().map(row).collect();
    let mut text = table::render(&COLUMNS, &rows, width);
    if hits.iter().any(|hit| hit.gated) {
        let what = "gated: accept the licence on the repository's page and set HF_TOKEN";
        text.push_str(&table::paragraph(what, width));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_shown_for_what_they_are() {
        let hit = |repo: &str, format: &str, gated| SearchHitView {
            repo: repo.to_owned(),
            format: format.to_owned(),
            n_downloads: 12_345,
            n_likes: 1,
            last_modified: None,
            gated,
            tags: Vec::new(),
        };
        let hits = [
            hit("owner/some-long-name-of-a-model-GGUF", "gguf", true),
            hit("mlx-community/other-4bit", "mlx", false),
        ];
        for width in [40, 60, 80, 120] {
            let text = format(&hits, width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            for part in ["GGUF", "MLX", "does not run", "gated", "mlx-community/other-4bit"] {
                assert!(text.contains(part), "{width}: {part}:\n{text}");
            }
        }
    }
}
