//! `trireme member`.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::connect::Place;
use crate::output::table;

#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show the servers
    List,
    /// Take a server out of the group; its machine can then be wiped
    Remove {
        /// Its name or id
        server: String,
    },
}

pub async fn run(options: Options) -> Result<()> {
    let client = options.place.client()?;
    let status = client.cluster_status().await?;
    let members: Vec<_> = status
        .servers
        .iter()
        .filter_map(|status| Some((status, status.server.as_ref()?)))
        .collect();
    match options.command {
        Command::List => {
            let rows: Vec<Vec<String>> = members
                .iter()
                .map(|(status, server)| {
                    vec![
                        server.name.clone(),
                        server.id.to_string(),
                        server.api_address.clone(),
                        server.peer_address.clone(),
                        status.role.clone(),
                    ]
                })
                .collect();
            print!("{}", table(&["NAME", "ID", "API", "PEER", "ROLE"], &rows));
        }
        Command::Remove { server } => {
            let (_, found) = members
                .iter()
                .find(|(_, member)| member.name == server || member.id.to_string() == server)
                .with_context(|| format!("no server has the name or id {server:?}"))?;
            if members.len() == 1 {
                bail!("{server} is the only server; removing it would end the cluster");
            }
            client.remove_server(found.id).await?;
            println!("server {} removed", found.name);
        }
    }
    Ok(())
}
