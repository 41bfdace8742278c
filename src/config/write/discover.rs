//! Where backends come from.

use std::num::NonZeroU32;

use super::super::model::{Docker, Family, Query, Source, StaticBackend};
use super::{Map, Outline, duration, path};

pub(super) fn source(source: &Source) -> Outline {
    match source {
        Source::Static(backends) => {
            Map::new().with("static", Outline::List(backends.iter().map(backend).collect()))
        }
        Source::Dns(dns) => {
            query(Map::new().with("dns", Outline::text(format!("{}:{}", dns.name, dns.port))), &dns.query)
        }
        Source::Srv(srv) => query(Map::new().with("srv", &*srv.name), &srv.query),
        Source::File(file) => Map::new().with("file", path(&file.path)).with("every", duration(file.every)),
        Source::Docker(settings) => {
            Map::new().with("docker", docker(settings)).with("hold", duration(settings.hold))
        }
    }
    .into()
}

fn backend(backend: &StaticBackend) -> Outline {
    Map::new()
        .with("address", Outline::text(backend.address.to_string()))
        .with("name", &*backend.name)
        .with("weight", backend.weight)
        .with("backup", backend.backup)
        .with_some("connections", backend.connections.map(NonZeroU32::get))
        .into()
}

fn query(map: Map, query: &Query) -> Map {
    let family = match query.family {
        Family::Any => "any",
        Family::V4 => "4",
        Family::V6 => "6",
    };
    map.with("every", duration(query.every))
        .with_some("server", query.server.map(|server| Outline::text(server.to_string())))
        .with("hold", duration(query.hold))
        .with("flap", duration(query.flap))
        .with("family", family)
}

fn docker(docker: &Docker) -> Map {
    Map::new()
        .with("label", &*docker.label)
        .with_some("port", docker.port)
        .with_some("network", docker.network.as_deref())
        .with_some("engine", docker.engine.as_deref())
        .with("healthcheck", docker.healthcheck)
}
