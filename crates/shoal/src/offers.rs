//! `shoal models`: the catalogue, and for each model whether it runs here.

use serde::Deserialize;
use shoal_api::view::{FitView, OfferView};

use crate::{
    amount,
    args::{OffersArgs, ShelfArgs},
    client,
    failure::Failure,
    library, output,
    table::{self, Column},
    terminal,
};

const COLUMNS: [Column; 5] = [
    Column::text("  NAME"),
    Column::number("PARAMS").optional(),
    Column::number("SIZE"),
    Column::number("CONTEXT").optional(),
    Column::text("HERE"),
];

pub(crate) async fn offers(args: &OffersArgs) -> Result<(), Failure> {
    let mut offers = get(&args.shelf, args.all).await?;
    offers.retain(|offer| has_words(offer, &args.words) && (!args.runs || verdict(offer).runs()));
    offers.sort_by_key(rank);
    if args.json {
        return output::print_json(&offers);
    }
    if args.all {
        offers.iter_mut().for_each(name_quant);
    }
    output::print(&format(&offers, terminal::width()))
}

/// Makes the short name that of this quantisation, as `pull` understands it.
fn name_quant(offer: &mut OfferView) {
    if let Some(quant) = &offer.quant {
        offer.short = format!("{}-{}", offer.short, quant.to_lowercase());
    }
}

/// The catalogue as the running node sees it, with what its cluster can do, or as this device does.
pub(crate) async fn get(args: &ShelfArgs, every_quant: bool) -> Result<Vec<OfferView>, Failure> {
    #[derive(Deserialize)]
    struct Offers {
        models: Vec<OfferView>,
    }

    if client::state_if_running(&args.at)?.is_some() {
        let path = if every_quant { "/models?quants=all" } else { "/models" };
        let offers: Offers = client::parse(client::ask(&args.at, "GET", path, None)?)?;
        return Ok(offers.models);
    }
    let node = library::open(&args.storage).await?;
    let offers = if every_quant { node.all_offers().await } else { node.offers().await };
    node.shutdown().await;
    Ok(offers?.into_iter().map(OfferView::from).collect())
}

/// What this device can do with a model, or, where that is more, the cluster.
pub(crate) fn verdict(offer: &OfferView) -> &FitView {
    if offer.here.runs() { &offer.here } else { &offer.cluster }
}

/// Whether a model runs here, in words.
pub(crate) fn words(fit: &FitView) -> String {
    match fit {
        FitView::Runs => "runs here".to_owned(),
        FitView::RunsOn { n_nodes } => format!("runs on {n_nodes} devices"),
        FitView::TooLarge { missing_bytes } => {
            format!("{} too large", amount::bytes(*missing_bytes))
        }
        FitView::Unsupported { what } => format!("cannot run: {what}"),
    }
}

/// What runs comes first; otherwise the catalogue's order.
fn rank(offer: &OfferView) -> usize {
    match verdict(offer) {
        FitView::Runs => 0,
        FitView::RunsOn { .. } => 1,
        FitView::TooLarge { .. } => 2,
        FitView::Unsupported { .. } => 3,
    }
}

fn has_words(offer: &OfferView, words: &[String]) -> bool {
    let all = [&offer.short, &offer.id, &offer.name, &offer.family].map(|text| text.to_lowercase());
    words
        .iter()
        .map(|word| word.to_lowercase())
        .all(|word| all.iter().any(|text| text.contains(&word)) || offer.tags.contains(&word))
}

fn format(offers: &[OfferView], width: usize) -> String {
    if offers.is_empty() {
        return table::paragraph(
            "no model of the catalogue has these words; `shoal models search` asks the hub",
            width,
        );
    }
    let row = |offer: &OfferView| {
        let mark = if offer.stored.is_some() { '*' } else { ' ' };
        vec![
            format!("{mark} {}", offer.short),
            amount::count(offer.n_params),
            if offer.n_bytes > 0 { amount::bytes(offer.n_bytes) } else { String::new() },
            amount::context(offer.n_ctx_train),
            words(verdict(offer)),
        ]
    };
    let rows: Vec<Vec<String>> = offers.iter().map(row).collect();
    let mut text = table::render(&COLUMNS, &rows, width);
    if offers.iter().any(|offer| offer.stored.is_some()) {
        text.push_str(&table::paragraph("* on this device", width));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(short: &str, n_bytes: u64, fit: FitView) -> OfferView {
        OfferView {
            id: format!("owner/{short}"),
            short: short.to_owned(),
            name: "A model".to_owned(),
            family: "family".to_owned(),
            architecture: "llama".to_owned(),
            format: "gguf".to_owned(),
            licence: "MIT".to_owned(),
            gated: false,
            tags: vec!["chat".to_owned()],
            n_params: 1_543_714_304,
            n_layer: 28,
            n_ctx_train: 32_768,
            quant: Some("Q4_K_M".to_owned()),
            n_bytes,
            memory_bytes: n_bytes,
            n_ctx: 4096,
            here: fit.clone(),
            cluster: fit,
            stored: (short == "qwen2.5:0.5b").then(|| "there".to_owned()),
        }
    }

    fn catalogue() -> Vec<OfferView> {
        let what = "architecture gemma3".to_owned();
        vec![
            offer("qwen2.5:0.5b", 397_807_936, FitView::Runs),
            offer("qwen2.5-coder:1.5b", 1_117_320_736, FitView::RunsOn { n_nodes: 2 }),
            offer("phi4:14b", 9_053_114_816, FitView::TooLarge { missing_bytes: 1_300_000_000 }),
            offer("gemma3:4b", 2_489_757_856, FitView::Unsupported { what }),
        ]
    }

    #[test]
    fn a_phone_shows_everything_that_matters() {
        let expected = [
            "  NAME                PARAMS    SIZE  HERE",
            "* qwen2.5:0.5b          1.5B  398 MB  runs here",
            "  qwen2.5-coder:1.5b    1.5B  1.1 GB  runs on 2 devices",
            "  phi4:14b              1.5B  9.1 GB  1.3 GB too large",
            "  gemma3:4b             1.5B  2.5 GB  cannot run:",
            "                                      architecture gemma3",
            "* on this device",
        ];
        let text = format(&catalogue(), 60);
        assert_eq!(text.lines().collect::<Vec<_>>(), expected, "\n{text}");
    }

    #[test]
    fn every_width_says_of_each_model_whether_it_runs() {
        for width in [40, 60, 80, 120] {
            let text = format(&catalogue(), width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            for part in ["runs here", "2 devices", "too large", "cannot run", "gemma3:4b"] {
                assert!(text.contains(part), "{width}: {part}:\n{text}");
            }
        }
    }

    #[test]
    fn the_cluster_helps_where_this_device_is_too_small() {
        let mut offer = offer("a:1b", 1, FitView::TooLarge { missing_bytes: 5 });
        offer.cluster = FitView::RunsOn { n_nodes: 3 };
        assert_eq!(words(verdict(&offer)), "runs on 3 devices");
        offer.here = FitView::Runs;
        assert_eq!(words(verdict(&offer)), "runs here");
    }

    #[test]
    fn words_narrow_the_list() {
        let offer = offer("qwen2.5:0.5b", 1, FitView::Runs);
        let has = |words: &[&str]| {
            has_words(&offer, &words.iter().map(|&it| it.to_owned()).collect::<Vec<_>>())
        };
        assert!(has(&[]) && has(&["QWEN", "chat"]) && has(&["owner/"]));
        assert!(!has(&["qwen", "code"]));
    }
}
