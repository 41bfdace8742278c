//! `pointsman forward`: a balancer without a configuration file.

use std::sync::Arc;

use litemap::LiteMap;

use super::{Exit, Failure, ForwardArgs, run};
use crate::config::{
    Admin, Check, Config, Dns, Health, HttpCheck, Listener, Log, Pool, Runtime, Source, StaticBackend,
    backend_address,
};
use crate::own::{OwnAddresses, Owner};

pub(super) fn run(args: &ForwardArgs) -> Result<Exit, Failure> {
    run::serve(config(args)?, None, None)
}

fn config(args: &ForwardArgs) -> Result<Config, Failure> {
    let bound =
        [(Some(&args.listen), Owner::Listener("forward".into())), (args.admin.as_ref(), Owner::Admin)];
    let bound = bound.into_iter().filter_map(|(address, owner)| Some((address?.clone(), owner)));
    let own = OwnAddresses::new(bound.collect());
    let mut pool = Pool::new(sources(&args.backends, &own)?);
    pool.balance = args.balance;
    pool.health = match args.health.as_deref() {
        None => Vec::new(),
        Some("tcp") => vec![Health::new(Check::Tcp)],
        Some(path) if path.starts_with('/') => {
            vec![Health::new(Check::Http(HttpCheck::new(path.to_owned())))]
        }
        Some(other) => {
            return Err(Failure::Invalid(format!(
                "--health is tcp or a path such as /health, not {other:?}"
            )));
        }
    };
    let name: Arc<str> = "forward".into();
    let listener = Listener::new(args.listen.clone(), Arc::clone(&name), &pool);
    Ok(Config {
        runtime: Runtime::default(),
        log: Log::default(),
        admin: args.admin.clone().map(Admin::new),
        listeners: LiteMap::from_iter([(Arc::clone(&name), listener)]),
        pools: LiteMap::from_iter([(name, pool)]),
    })
}

/// The addresses become one static source; each name becomes a DNS source.
fn sources(backends: &[String], own: &OwnAddresses) -> Result<Vec<Source>, Failure> {
    let mut written: Vec<StaticBackend> = Vec::new();
    let mut sources: Vec<Source> = Vec::new();
    for backend in backends {
        if let Ok(address) = backend_address(backend) {
            let invalid = |what| Err(Failure::Invalid(format!("the backend {address} {what}")));
            if written.iter().any(|other| other.address == address) {
                return invalid("is listed twice".to_owned());
            }
            if let Some(owner) = own.owner(&address) {
                return invalid(format!("is the {owner} itself"));
            }
            written.push(StaticBackend::new(address));
            continue;
        }
        let name = backend.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?)));
        match name {
            Some((name, port)) if !name.is_empty() && port > 0 => {
                sources.push(Source::Dns(Dns::new(name.to_owned(), port)));
            }
            _ => {
                let wanted = "a backend is ADDRESS:PORT, NAME:PORT or unix:PATH";
                return Err(Failure::Invalid(format!("{wanted}, such as 127.0.0.1:9001, not {backend:?}")));
            }
        }
    }
    if !written.is_empty() {
        sources.push(Source::Static(written));
    }
    Ok(sources)
}
