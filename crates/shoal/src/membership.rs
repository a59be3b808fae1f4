//! Who belongs to the cluster: `invite`, `join`, `leave`, `drain`, `nodes forget`; and `doctor`, which finds out why somebody is missing.

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};
use shoal_api::qr;

use crate::{
    args::{ClientArgs, DoctorArgs, DrainArgs, ForgetArgs, InviteArgs, JoinArgs},
    client::{ask, escape},
    failure::Failure,
    output, period,
};

/// What the command line was not understood.
const USAGE: u8 = 2;

pub(crate) fn invite(args: &InviteArgs) -> Result<(), Failure> {
    let expires_s = period::seconds(&args.expires)
        .map_err(|message| Failure::new(anyhow!("--expires: {message}"), USAGE))?;
    let request = json!({"expires_s": expires_s, "single_use": args.single_use});
    let body = ask(&args.client.at, "POST", "/invite", Some(&request))?;
    if args.client.json {
        return output::print(&format!("{body}\n"));
    }
    let ticket = body["ticket"].as_str().context("the node sent no ticket")?;
    if args.qr {
        output::print(&qr::draw(&ticket.to_uppercase()).map_err(anyhow::Error::from)?)?;
    }
    output::print(&format!("{ticket}\n"))
}

pub(crate) fn join(args: &JoinArgs) -> Result<(), Failure> {
    let request = json!({"ticket": args.ticket});
    let body = ask(&args.client.at, "POST", "/join", Some(&request));
    let body = body.map_err(|failure| match failure.is_no_node() {
        true => {
            failure.hint("no node runs here: `shoal serve --join TICKET` starts one that joins")
        }
        false => failure,
    })?;
    say(&args.client, &body, "joined: `shoal nodes` shows who is there")
}

pub(crate) fn leave(args: &ClientArgs) -> Result<(), Failure> {
    let body = ask(&args.at, "POST", "/leave", None)?;
    say(args, &body, "left the cluster: this device is alone now")
}

pub(crate) fn forget(args: &ForgetArgs) -> Result<(), Failure> {
    let path = format!("/nodes/{}", escape(&args.target));
    let body = ask(&args.client.at, "DELETE", &path, None)?;
    let text = format!(
        "{} is removed for good, and all tickets that were given out are void",
        args.target
    );
    say(&args.client, &body, &text)
}

pub(crate) fn drain(args: &DrainArgs) -> Result<(), Failure> {
    let request = json!({"node": args.target, "undo": args.undo});
    let body = ask(&args.client.at, "POST", "/drain", Some(&request))?;
    let name = args.target.as_deref().unwrap_or("this device");
    let text = if args.undo {
        format!("{name} may have layers again")
    } else {
        format!("{name} gives its layers to the others: `shoal nodes` shows where they are")
    };
    say(&args.client, &body, &text)
}

pub(crate) fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    let body = ask(&args.client.at, "GET", &format!("/doctor/{}", args.what), None)?;
    if args.client.json {
        return output::print(&format!("{body}\n"));
    }
    let findings = body["findings"].as_array().context("the node sent no findings")?;
    let mut text = String::new();
    for finding in findings {
        let field = |name: &str| finding[name].as_str().unwrap_or_default();
        text.push_str(&format!("{:<8} {}\n", field("severity"), field("sentence")));
        if !field("what_to_do").is_empty() {
            text.push_str(&format!("         {}\n", field("what_to_do")));
        }
    }
    output::print(&text)
}

fn say(args: &ClientArgs, body: &Value, text: &str) -> Result<(), Failure> {
    if args.json {
        output::print(&format!("{body}\n"))
    } else {
        output::print(&format!("{text}\n"))
    }
}
