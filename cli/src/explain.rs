//! `trireme explain`: why something is as it is.

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use trireme_proto::v1::{ExplainHeader, ExplainRouteRequest};

use crate::connect::Place;

#[derive(Args, Debug)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Walk through what a request of a workload would meet, and name the objects that decide it
    Route(Route),
}

#[derive(Args, Debug)]
struct Route {
    #[command(flatten)]
    place: Place,
    /// Whose request: deploy/NAME or pod/NAME
    #[arg(long)]
    from: String,
    /// Its namespace
    #[arg(long, short, default_value = "default")]
    namespace: String,
    /// The request's URL, as the workload would write it
    #[arg(long)]
    to: String,
    /// A header, as NAME:VALUE (repeat for more)
    #[arg(long = "header", short = 'H')]
    headers: Vec<String>,
    #[arg(long = "request", short = 'X', default_value = "GET")]
    method: String,
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub async fn run(options: Options) -> Result<()> {
    let Command::Route(options) = options.command;
    let (kind, name) = options
        .from
        .split_once('/')
        .with_context(|| format!("--from {:?} is not deploy/NAME or pod/NAME", options.from))?;
    let mut headers = Vec::new();
    for header in &options.headers {
        let (name, value) = header
            .split_once(':')
            .with_context(|| format!("-H {header:?} is not NAME:VALUE"))?;
        headers.push(ExplainHeader {
            name: name.trim().to_owned(),
            value: value.trim().to_owned(),
        });
    }
    let request = ExplainRouteRequest {
        from_kind: kind.to_owned(),
        from_namespace: options.namespace,
        from_name: name.to_owned(),
        method: options.method,
        url: options.to,
        headers,
    };
    let reply = options.place.client()?.explain_route(request).await?;
    match options.output {
        Format::Text => print!("{}", reply.text),
        Format::Json => {
            let document: serde_json::Value = serde_json::from_slice(&reply.json)?;
            println!("{}", serde_json::to_string_pretty(&document)?);
        }
    }
    Ok(())
}
