//! The servers that are measured, and how this tool goes about it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tidegate_client::{Options as ClientOptions, Value};

use crate::line::{Protocol, Server};

/// What every scenario is told about the servers and its record.
#[derive(Args, Clone)]
pub(crate) struct Target {
    /// The server, as http://host:port or https://host:port; repeat it for several, over which connections are spread.
    #[arg(long = "url", required = true)]
    pub(crate) urls: Vec<String>,
    /// Who signed the certificates of https servers, in PEM.
    #[arg(long = "ca", value_name = "FILE", value_parser = authority)]
    pub(crate) authority: Option<String>,
    /// Path that Engine.IO is served under.
    #[arg(long, default_value = "/socket.io/")]
    pub(crate) path: String,
    /// Process of the server, to be measured; repeat it for a server of several processes.
    #[arg(long = "pid")]
    pub(crate) pids: Vec<u32>,
    /// Connections that are opened at the same time, by each process of this tool.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) opening: u32,
    /// Threads of each process of this tool.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) threads: u32,
    /// Processes that hold the connections. With one, it is this one; with more, this one only publishes and adds up.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) processes: u32,
    /// Connections come from so many addresses, 127.0.0.2 and following; each has ports of its own. For servers on
    /// loopback only.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=200))]
    pub(crate) source_addresses: u32,
    /// Name of the server in the record.
    #[arg(long, default_value = "server")]
    pub(crate) label: String,
    /// Appends the record to this file, one line of JSON per run.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Writes the record to this file as a page with plots.
    #[arg(long)]
    pub(crate) report: Option<PathBuf>,
}

impl Target {
    /// The server at `url`, for what is no [`Place`].
    pub(crate) fn client(&self, url: &str) -> ClientOptions {
        let mut client = ClientOptions::new(url);
        client.path.clone_from(&self.path);
        trusting(client, self.authority.as_ref())
    }

    /// The second server: `named`, or the second `--url`.
    pub(crate) fn other_url(&self, named: Option<&str>) -> anyhow::Result<String> {
        let other = named.map(str::to_owned).or_else(|| self.urls.get(1).cloned());
        other.context("a second --url, or --other-url, is needed")
    }

    /// Refuses what cannot be divided among processes.
    pub(crate) fn alone(&self) -> anyhow::Result<()> {
        if self.processes > 1 {
            bail!("this scenario runs in one process: its users are known to each other");
        }
        if self.source_addresses > 0 {
            bail!("this scenario has no --source-addresses");
        }
        Ok(())
    }

    /// `urls`, spoken to in this way.
    pub(crate) fn place(&self, urls: &[String], protocol: Protocol, users: bool) -> anyhow::Result<Place> {
        if self.source_addresses > 0 {
            let is_loopback = |url: &String| url.contains("//127.") || url.contains("//localhost");
            if let Some(url) = urls.iter().find(|url| !is_loopback(url)) {
                bail!("--source-addresses is for servers on loopback, and {url} is none");
            }
        }
        Ok(Place {
            urls: urls.to_vec(),
            authority: self.authority.clone(),
            path: self.path.clone(),
            source_addresses: self.source_addresses,
            opening: self.opening,
            protocol,
            users,
        })
    }
}

/// What `--ca` names.
fn authority(file: &str) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|error| format!("cannot be read: {error}"))
}

fn trusting(client: ClientOptions, authority: Option<&String>) -> ClientOptions {
    match authority {
        Some(pem) => client.authorities(pem),
        None => client,
    }
}

/// How an idle connection is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    /// One WebSocket.
    #[default]
    Websocket,
    /// One HTTP connection with a waiting poll.
    Polling,
}

/// Where a worker's connections lead, and what is spoken there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) urls: Vec<String>,
    /// Who signed their certificates, in PEM.
    pub(crate) authority: Option<String>,
    pub(crate) path: String,
    pub(crate) source_addresses: u32,
    pub(crate) opening: u32,
    pub(crate) protocol: Protocol,
    /// Whether every connection has a user of its own.
    pub(crate) users: bool,
}

impl Place {
    /// How many pairs of a server and a source address there are: each has ports for itself.
    pub(crate) fn pairs(&self) -> u32 {
        u32::try_from(self.urls.len()).unwrap_or(u32::MAX).saturating_mul(self.source_addresses.max(1))
    }

    /// The CONNECT payload of connection number `index`, if connections have users.
    pub(crate) fn auth(&self, index: u32) -> Option<Value> {
        self.users.then(|| serde_json::json!({ "user": format!("u{index}") }).into())
    }

    /// Every way there, for connection number `index` at `index` modulo their number: servers alternate, and source
    /// addresses after that.
    pub(crate) fn options(&self) -> Vec<ClientOptions> {
        let sources: Vec<Option<IpAddr>> = match self.source_addresses {
            0 => vec![None],
            count => (0..count).map(|at| Some(Ipv4Addr::from(0x7f00_0002 + at).into())).collect(),
        };
        let mut all = Vec::new();
        for local_address in sources {
            for url in &self.urls {
                let mut options = ClientOptions::new(url.clone());
                options.path.clone_from(&self.path);
                options.local_address = local_address;
                all.push(trusting(options, self.authority.as_ref()));
            }
        }
        all
    }

    /// The same, checked.
    pub(crate) fn servers(&self) -> anyhow::Result<Servers> {
        let all = self.options();
        let all = all.iter().map(|options| Server::new(self.protocol, options));
        Ok(Servers(all.collect::<anyhow::Result<_>>()?))
    }
}

/// Every way to a [`Place`].
#[derive(Clone)]
pub(crate) struct Servers(Vec<Server>);

impl Servers {
    /// The one of connection number `index`.
    pub(crate) fn of(&self, index: u32) -> &Server {
        &self.0[index as usize % self.0.len()]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn servers_alternate_and_sources_follow() {
        let place = Place {
            urls: vec!["http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned()],
            authority: None,
            path: "/socket.io/".to_owned(),
            source_addresses: 2,
            opening: 1,
            protocol: Protocol::Socketio,
            users: true,
        };
        let ways: Vec<_> =
            place.options().into_iter().map(|way| (way.url, way.local_address.unwrap())).collect();
        let [second, third]: [IpAddr; 2] = ["127.0.0.2".parse().unwrap(), "127.0.0.3".parse().unwrap()];
        let [one, two] = place.urls.clone().try_into().unwrap();
        assert_eq!(ways, [(one.clone(), second), (two.clone(), second), (one, third), (two, third)]);
        assert_eq!((place.pairs(), place.servers().unwrap().0.len()), (4, 4));
        assert_eq!(place.auth(3).unwrap()["user"], "u3");
    }
}
