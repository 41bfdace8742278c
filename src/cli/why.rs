//! `pointsman why` and `story`: what a running instance tells of itself, in sentences.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use super::instance::{RemoteArgs, block_on};
use super::target::BackendTarget;
use super::{Exit, Failure, print, print_json, terminal};
use crate::api::{StatusReply, path};
use crate::remote::{Remote, encode};

#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    /// A client (ADDRESS or ADDRESS:PORT), a connection by its number (#17), or a backend (POOL/BACKEND)
    #[arg(value_name = "CLIENT|#CONN|POOL/BACKEND")]
    about: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(super) struct StoryArgs {
    /// How far back
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    since: Duration,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// What the server tells.
#[derive(Debug, Deserialize)]
pub(super) struct WhyReply {
    #[serde(default)]
    about: String,
    sentences: Vec<Sentence>,
    /// The connections that the last of the sentences are about.
    #[serde(default)]
    connections: Vec<Connection>,
}

#[derive(Debug, Deserialize)]
struct Connection {
    sentences: Vec<Sentence>,
}

#[derive(Debug, Deserialize)]
struct Sentence {
    at: Option<f64>,
    text: String,
}

impl WhyReply {
    /// A line for what it is about, and one for each sentence, with its time of day (UTC) if it has one; an empty one
    /// before each connection.
    pub(super) fn lines(&self) -> Vec<String> {
        let about = Some(&self.about).filter(|about| !about.is_empty()).cloned();
        let sentence = |sentence: &Sentence| match sentence.at {
            Some(at) => format!("{}  {}", terminal::time_of_day(at), sentence.text),
            None => sentence.text.clone(),
        };
        let of_connections: usize = self.connections.iter().map(|one| one.sentences.len()).sum();
        let first = &self.sentences[..self.sentences.len().saturating_sub(of_connections)];
        let connections = self
            .connections
            .iter()
            .flat_map(|one| std::iter::once(String::new()).chain(one.sentences.iter().map(sentence)));
        let lines = about.into_iter().chain(first.iter().map(sentence)).chain(connections);
        lines.map(|line| terminal::clean(&line)).collect()
    }
}

/// The path that tells why a backend is in its state.
pub(super) fn path(pool: &str, backend: &str) -> String {
    format!("/api/v1/why?pool={}&backend={}", encode(pool), encode(backend))
}

pub(super) fn why(args: &WhyArgs) -> Result<Exit, Failure> {
    let remote = args.remote.remote()?;
    let text = block_on(async {
        let about = &*args.about;
        let conn = about.strip_prefix('#').unwrap_or(about).parse::<u64>();
        let bare = about.trim_start_matches('[').trim_end_matches(']');
        let is_client =
            about.parse::<SocketAddr>().is_ok() || bare.parse::<IpAddr>().is_ok() || about == "unix";
        let path = match conn {
            Ok(conn) => format!("/api/v1/why?conn={conn}"),
            Err(_) if is_client => format!("/api/v1/why?client={}", encode(bare_unless_port(about))),
            Err(_) => {
                let status: StatusReply = remote.get(path::STATUS).await?;
                let target = BackendTarget::find(about, &status)?;
                path(&target.pool, &target.backend)
            }
        };
        Ok(remote.text(&path).await?)
    })?;
    tell(&remote, &text, args.remote.json)
}

/// An IPv6 address that stands alone needs no brackets.
fn bare_unless_port(client: &str) -> &str {
    match client.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(bare) => bare,
        None => client,
    }
}

pub(super) fn story(args: &StoryArgs) -> Result<Exit, Failure> {
    let remote = args.remote.remote()?;
    let since = humantime::format_duration(args.since).to_string().replace(' ', "");
    let path = format!("/api/v1/story?since={}", encode(&since));
    let text = block_on(async { Ok(remote.text(&path).await?) })?;
    tell(&remote, &text, args.remote.json)
}

fn tell(remote: &Remote, text: &str, json: bool) -> Result<Exit, Failure> {
    if json {
        return print_json(text);
    }
    let story: WhyReply = remote.read(text)?;
    print(&(story.lines().join("\n") + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_is_told_line_by_line() {
        let text = r#"{"about": "a of web", "sentences": [{"at": 60.0, "text": "it joined"}, {"at": null, "text": "It is up\u001b."}]}"#;
        let story: WhyReply = serde_json::from_str(text).unwrap();
        assert_eq!(story.lines(), ["a of web", "00:01:00  it joined", "It is up ."]);
        let story: WhyReply = serde_json::from_str(r#"{"sentences": []}"#).unwrap();
        assert!(story.lines().is_empty());
    }
}
