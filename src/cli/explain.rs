//! `pointsman explain`

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::bail;

use crate::config::Code;
use crate::snapshot::explain::{Explanation, Question};

use super::client::Client;
use super::{Exit, Source, compiled, print, show};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A URL such as http://api.example.com/v1/users/7, or a code such as E0102.
    #[arg(value_name = "URL|CODE")]
    what: String,
    /// The method.
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
    /// A header as `name: value`; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The client's address.
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    #[command(flatten)]
    source: Source,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<Exit> {
    if let Some(code) = Code::parse(&args.what) {
        return print(&format!("{}: {}\n\n{}", code.as_str(), code.title(), code.explanation()));
    }
    let question = Question {
        method: args.method.clone(),
        url: args.what.clone(),
        headers: args.headers.clone(),
        client: args.client,
    };
    let explanation = match &args.source.config {
        Some(path) => {
            let (loaded, compiled) = compiled(path.clone())?;
            let Some(snapshot) = compiled.snapshot else {
                show(&compiled.found, &loaded.sources);
                return Ok(Exit::InvalidConfig);
            };
            snapshot.explain(&question).map_err(anyhow::Error::msg)?
        }
        None => match Client::new(&args.source)?.post("/v1/explain", Some(&serde_json::to_value(&question)?))? {
            (status, answer) if status.is_success() => serde_json::from_value(answer)?,
            (_, answer) => bail!("{}", answer["error"].as_str().unwrap_or("the gateway refuses the question")),
        },
    };
    print(&if args.json { serde_json::to_string_pretty(&explanation)? } else { text(&question, &explanation)? })?;
    Ok(if explanation.route.is_some() { Exit::Ok } else { Exit::NotFound })
}

fn text(question: &Question, explanation: &Explanation) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    writeln!(out, "{} {}", question.method, question.url)?;
    writeln!(out, "  matched as  {}{}", explanation.host, explanation.path)?;
    writeln!(out, "  route       {}", explanation.route.as_deref().unwrap_or("none: 404 no_route"))?;
    if let (Some(action), Some(_)) = (&explanation.action, &explanation.route) {
        writeln!(out, "  action      {action}")?;
    }
    if let Some(forwarded) = explanation.forwarded.as_ref().filter(|_| explanation.targets.is_empty()) {
        writeln!(out, "  forwarded   {forwarded}")?;
    }
    if explanation.targets.is_empty() {
        for endpoint in &explanation.endpoints {
            writeln!(out, "  endpoint    {endpoint}")?;
        }
    }
    for target in &explanation.targets {
        writeln!(out, "  target      {} as {}", target.upstream, target.forwarded)?;
        for endpoint in &target.endpoints {
            writeln!(out, "    endpoint  {endpoint}")?;
        }
    }
    for note in &explanation.notes {
        writeln!(out, "  note        {note}")?;
    }
    for (title, lines) in
        [("considered, in this order:", &explanation.considered), ("near, but not matching:", &explanation.others)]
    {
        if !lines.is_empty() {
            writeln!(out, "  {title}")?;
        }
        for line in lines {
            writeln!(out, "    {}: {}", line.route, line.verdict)?;
        }
    }
    Ok(out)
}
