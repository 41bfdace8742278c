//! `pointsman why` and `story`: explanations from a running instance, in sentences.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;

use super::instance::{RemoteArgs, block_on};
use super::target::BackendTarget;
use super::{Exit, Failure, print, print_json, terminal};
use crate::api::{StatusReply, StoryReply, Timestamp, WhyReply, path};
use crate::http1::encode;
use crate::story::Sentence;

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
    /// How far back to look
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    since: Duration,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// A sentence with its time of day (UTC), if it has one.
fn line(sentence: &Sentence) -> String {
    match sentence.at {
        Some(at) => format!("{}  {}", terminal::time_of_day(Timestamp::from(at).0), sentence.text),
        None => sentence.text.clone(),
    }
}

/// A heading and a line per sentence, with an empty line before each connection.
pub(super) fn lines(why: &WhyReply) -> Vec<String> {
    let about = Some(&why.about).filter(|about| !about.is_empty()).cloned();
    let connections = why.connections.as_deref().unwrap_or_default();
    let of_connections: usize = connections.iter().map(|one| one.sentences.len()).sum();
    let first = &why.sentences[..why.sentences.len().saturating_sub(of_connections)];
    let connections = connections
        .iter()
        .flat_map(|one| std::iter::once(String::new()).chain(one.sentences.iter().map(line)));
    let lines = about.into_iter().chain(first.iter().map(line)).chain(connections);
    lines.map(|line| terminal::clean(&line)).collect()
}

/// The path of the explanation of a backend's state.
pub(super) fn backend_path(pool: &str, backend: &str) -> String {
    format!("{}?pool={}&backend={}", path::WHY, encode(pool), encode(backend))
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
            Ok(conn) => format!("{}?conn={conn}", path::WHY),
            Err(_) if is_client => format!("{}?client={}", path::WHY, encode(bare_unless_port(about))),
            Err(_) => {
                let status: StatusReply = remote.get(path::STATUS).await?;
                let target = BackendTarget::find(about, &status)?;
                backend_path(&target.pool, &target.backend)
            }
        };
        Ok(remote.text(&path).await?)
    })?;
    if args.remote.json {
        return print_json(&text);
    }
    let why: WhyReply = remote.read(&text)?;
    print(&(lines(&why).join("\n") + "\n"))
}

/// Strips the brackets of an IPv6 address without a port.
fn bare_unless_port(client: &str) -> &str {
    match client.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(bare) => bare,
        None => client,
    }
}

pub(super) fn story(args: &StoryArgs) -> Result<Exit, Failure> {
    let remote = args.remote.remote()?;
    let since = humantime::format_duration(args.since).to_string().replace(' ', "");
    let path = format!("{}?since={}", path::STORY, encode(&since));
    let text = block_on(async { Ok(remote.text(&path).await?) })?;
    if args.remote.json {
        return print_json(&text);
    }
    let story: StoryReply = remote.read(&text)?;
    let lines: Vec<_> = story.sentences.iter().map(|entry| terminal::clean(&line(&entry.sentence))).collect();
    print(&(lines.join("\n") + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sentence_is_a_line() {
        let text = r#"{"about": "a of web", "sentences": [{"at": 60.0, "text": "it joined"}, {"at": null, "text": "It is up\u001b."}]}"#;
        let why: WhyReply = serde_json::from_str(text).unwrap();
        assert_eq!(lines(&why), ["a of web", "00:01:00  it joined", "It is up ."]);
        let why: WhyReply = serde_json::from_str(r#"{"sentences": []}"#).unwrap();
        assert!(lines(&why).is_empty());
    }
}
