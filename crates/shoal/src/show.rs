//! `shoal show`: what is known of one model: its card, whether it runs, and what of it is on this device.

use anyhow::anyhow;
use serde_json::json;
use shoal_api::view::{OfferView, StoredView};

use crate::{
    amount, args::ShowArgs, failure::Failure, library, list, offers, output, table, terminal,
};

pub(crate) async fn show(args: &ShowArgs) -> Result<(), Failure> {
    let offers = offers::get(&args.shelf, false).await?;
    let node = library::open(&args.shelf.storage).await?;
    let stored = node.stored().await;
    node.shutdown().await;
    let stored: Vec<StoredView> = stored?.into_iter().map(StoredView::from).collect();
    let is = |text: &str| text.eq_ignore_ascii_case(args.model.trim());
    let offer = offers.iter().find(|offer| {
        let is_family = offer.family == args.model;
        is(&offer.short) || is(&offer.id) || offer.stored.as_deref().is_some_and(is) || is_family
    });
    let name = offer.and_then(|offer| offer.stored.as_deref());
    let found = stored.iter().find(|model| is(&model.name) || Some(model.name.as_str()) == name);
    if offer.is_none() && found.is_none() {
        let error =
            anyhow!("model {:?} is neither in the catalogue nor on this device", args.model);
        return Err(Failure::new(error, Failure::MODEL)
            .hint("`shoal models` and `shoal list` show what there is; `shoal models search` asks the hub"));
    }
    if args.json {
        return output::print_json(&json!({"card": offer, "stored": found}));
    }
    output::print(&format(offer, found, terminal::width()))
}

fn format(offer: Option<&OfferView>, stored: Option<&StoredView>, width: usize) -> String {
    let mut rows: Vec<(&str, String)> = Vec::new();
    if let Some(offer) = offer {
        rows.push(("name", format!("{} ({})", offer.short, offer.name)));
        rows.push(("repository", offer.id.clone()));
        rows.push(("parameters", amount::count(offer.n_params)));
        rows.push(("architecture", format!("{}, {} layers", offer.architecture, offer.n_layer)));
        rows.push(("context", format!("{} positions", offer.n_ctx_train)));
        rows.push(("licence", offer.licence.clone()));
        if offer.gated {
            rows.push(("gated", "accept the licence on its page and set HF_TOKEN".to_owned()));
        }
        if !offer.tags.is_empty() {
            rows.push(("for", offer.tags.join(", ")));
        }
        if let Some(quant) = &offer.quant {
            rows.push(("download", format!("{quant}, {}", amount::bytes(offer.n_bytes))));
            let memory = amount::bytes(offer.memory_bytes);
            rows.push(("memory", format!("{memory} for a context of {}", offer.n_ctx)));
        }
        rows.push(("here", offers::words(offers::verdict(offer))));
    }
    match stored {
        Some(stored) => {
            rows.push(("on disk", stored.name.clone()));
            rows.push((
                "state",
                format!("{}, {}", list::state(stored), amount::bytes(stored.n_bytes_on_disk)),
            ));
            rows.push(("directory", stored.dir.clone()));
            rows.push(("whose", list::place(&stored.place).to_owned()));
        }
        None => rows.push(("on disk", "no; `shoal pull` gets it".to_owned())),
    }
    let margin = rows.iter().map(|(title, _)| title.len()).max().unwrap_or(0) + 2;
    let mut text = String::new();
    for (title, value) in rows {
        for (n, line) in table::fold(&value, width.saturating_sub(margin)).iter().enumerate() {
            let title = if n == 0 { title } else { "" };
            text.push_str(format!("{title:<margin$}{line}").trim_end());
            text.push('\n');
        }
    }
    text
}
