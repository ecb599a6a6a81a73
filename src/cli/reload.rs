//! `pointsman reload`

use anyhow::bail;
use hyper::StatusCode;

use super::client::Client;
use super::{Exit, Source, print};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let (status, report) = Client::new(&args.source)?.post("/v1/reload", None)?;
    if status != StatusCode::OK && status != StatusCode::UNPROCESSABLE_ENTITY {
        bail!("{status}: {report}");
    }
    let applied = status == StatusCode::OK;
    if args.json {
        print(&serde_json::to_string_pretty(&report)?)?;
    } else {
        eprint!("{}", report["text"].as_str().unwrap_or_default());
        let generation = &report["generation"];
        if applied {
            print(&changes(&report))?;
            eprintln!("configuration {generation} is in force");
        } else {
            eprintln!("refused: configuration {generation} stays in force");
        }
    }
    Ok(if applied { Exit::Ok } else { Exit::InvalidConfig })
}

fn changes(report: &serde_json::Value) -> String {
    let list: Vec<crate::reload::Change> = serde_json::from_value(report["changes"].clone()).unwrap_or_default();
    if list.is_empty() {
        return "no change".to_owned();
    }
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
