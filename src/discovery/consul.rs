//! The instances of a service in Consul's catalog as backends, by blocking queries: each waits until something has changed
//! since the index of the one before.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::header::{HeaderMap, HeaderName};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::http_api::{ANSWER, ApiRequest, HttpApi, HttpApiError, HttpApiErrorKind, read_secret};
use super::registry::{Answers, Entries, RegistrySource};
use super::srv::weights;
use super::{Fitness, Found};
use crate::config::Consul;
use crate::domain::cause::bounded;
use crate::domain::{Cause, SocketAddress};
use crate::http1::encode;

/// The header with the token.
const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
/// The header with the index of a response.
const INDEX: &str = "x-consul-index";
/// The least interval between queries: a service whose checks change all the time must not cause as many queries.
const BETWEEN_QUERIES: Duration = Duration::from_millis(100);
/// The length of a check's output in a cause, in characters.
const LONGEST_OUTPUT: usize = 200;

/// The source for the instances of a service.
pub(super) struct ConsulSource {
    settings: Consul,
}

impl RegistrySource for ConsulSource {
    // A blocking query reports a change at once: another query would find nothing newer.
    async fn follow(&mut self, api: &HttpApi, _: &Notify, answers: &mut Answers) -> HttpApiError {
        match self.query(api, answers).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }
}

impl ConsulSource {
    pub(super) fn new(settings: Consul) -> Self {
        Self { settings }
    }

    async fn query(&self, api: &HttpApi, answers: &mut Answers) -> Result<Infallible, HttpApiError> {
        // The index is that of one agent: a query to another one does not block.
        let mut index = None;
        loop {
            let began = Instant::now();
            let request = self.request(api, index).await?;
            // Consul adds up to a sixteenth, so that not all clients query it in step.
            let blocked = index.map_or(Duration::ZERO, |_| self.settings.wait + self.settings.wait / 16);
            let (headers, body) = api.fetch(&request, blocked + ANSWER).await?;
            let failed = |error: String| {
                let what = format!("the reply is not that of Consul ({error}); check the endpoint");
                api.error(HttpApiErrorKind::Failed, &request, &what)
            };
            index = next_index(index, index_of(&headers).map_err(failed)?);
            let instances = read(&body).map_err(failed)?;
            answers.report(entries(&instances, self.settings.healthcheck));
            sleep_until(began + BETWEEN_QUERIES).await;
        }
    }

    async fn request(&self, api: &HttpApi, index: Option<u64>) -> Result<ApiRequest, HttpApiError> {
        let path = path(&self.settings, index);
        let mut request = ApiRequest {
            method: Method::GET,
            path,
            secret: None,
            secret_header: Some((TOKEN, "")),
            body: None,
        };
        let token = read_secret(&self.settings).await;
        request.secret = token.map_err(|error| api.error(HttpApiErrorKind::Failed, &request, &error))?;
        Ok(request)
    }
}

/// The path and query of a request; with an index, it blocks.
fn path(settings: &Consul, index: Option<u64>) -> String {
    let mut parts: Vec<String> = settings.tags.iter().map(|tag| format!("tag={}", encode(tag))).collect();
    parts.extend(settings.datacenter.iter().map(|datacenter| format!("dc={}", encode(datacenter))));
    parts.extend(index.map(|index| format!("index={index}&wait={}ms", settings.wait.as_millis())));
    let path = format!("/v1/health/service/{}", encode(&settings.service));
    if parts.is_empty() { path } else { format!("{path}?{}", parts.join("&")) }
}

fn index_of(headers: &HeaderMap) -> Result<u64, String> {
    let index = headers.get(INDEX).and_then(|index| index.to_str().ok()?.parse().ok());
    index.ok_or_else(|| format!("the header {INDEX} is missing or is no number"))
}

/// The index of the next query: `None` if it must not block, as the index has gone backwards, such as after the restore
/// of a snapshot. With 0 a query would never block, so that is 1 (Consul's documentation, "Blocking queries").
fn next_index(before: Option<u64>, given: u64) -> Option<u64> {
    before.is_none_or(|before| given >= before).then_some(given.max(1))
}

/// An instance of a service, as Consul describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceInstance {
    node: CatalogNode,
    service: CatalogService,
    /// Those of the instance and of its node.
    #[serde(default)]
    checks: Option<Vec<CatalogCheck>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CatalogNode {
    node: String,
    #[serde(default)]
    address: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CatalogService {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(default)]
    service: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: u32,
    #[serde(default)]
    weights: ServiceWeights,
    /// Since Consul 1.17.
    #[serde(default)]
    locality: Option<Locality>,
}

/// Where an instance runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Locality {
    #[serde(default)]
    zone: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ServiceWeights {
    passing: u32,
    warning: u32,
}

impl Default for ServiceWeights {
    /// Those of a service without weights.
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CatalogCheck {
    #[serde(default)]
    name: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    output: String,
}

impl ServiceInstance {
    fn checks(&self) -> &[CatalogCheck] {
        self.checks.as_deref().unwrap_or_default()
    }

    /// Its name: its id, or that of its node if the id is only the name of the service, as it is by default.
    fn name(&self) -> &str {
        let CatalogService { id, service, .. } = &self.service;
        if id.is_empty() || id == service { &self.node.node } else { id }
    }

    fn address(&self) -> Result<SocketAddress, String> {
        let host = if self.service.address.is_empty() { &self.node.address } else { &self.service.address };
        let ip: IpAddr = host.parse().map_err(|_| format!("its address {host:?} is no IP address"))?;
        match u16::try_from(self.service.port) {
            Ok(port) if port > 0 => Ok(std::net::SocketAddr::new(ip, port).into()),
            _ => Err(format!("its port {} is not one from 1 to 65535", self.service.port)),
        }
    }

    /// Its health by the worst of its checks; without checks Consul counts it as passing.
    fn fitness(&self) -> Fitness {
        let failing = |check: &&CatalogCheck| !["passing", "warning"].contains(&&*check.status);
        match self.checks().iter().find(failing) {
            Some(check) => Fitness::Unhealthy(unhealthy_because(check)),
            None => Fitness::Healthy,
        }
    }

    /// Its zone; Consul has an empty one for an unknown one.
    fn zone(&self) -> Option<Arc<str>> {
        self.service.locality.as_ref()?.zone.clone().filter(|zone| !zone.is_empty())
    }

    /// Its weight: Consul has another one for an instance with a warning.
    fn weight(&self) -> u64 {
        let ServiceWeights { passing, warning } = self.service.weights;
        let warned = self.checks().iter().any(|check| check.status == "warning");
        u64::from(if warned { warning } else { passing })
    }
}

fn unhealthy_because(check: &CatalogCheck) -> Cause {
    let CatalogCheck { name, status, output } = check;
    let output = bounded(output.trim(), LONGEST_OUTPUT);
    let end = if output.is_empty() { String::new() } else { format!(": {output}") };
    Cause::from(format!("the check {:?} in Consul is {}{end}", bounded(name, 80), bounded(status, 20)))
}

fn read(body: &[u8]) -> Result<Vec<ServiceInstance>, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

/// The instances as backends. Their weights are scaled like those of SRV records, which Consul gives them as in DNS.
fn entries(instances: &[ServiceInstance], healthcheck: bool) -> Entries {
    let mut instances: Vec<_> = instances.iter().collect();
    // Answers come in any order, and of two instances with one address the same one must always win.
    instances.sort_by_key(|instance| (instance.name(), &instance.node.node));
    let weights = weights(instances.iter().map(|instance| instance.weight()));
    let mut entries = Entries::default();
    for (instance, weight) in instances.into_iter().zip(weights) {
        let entry = format!("{} on {}", instance.name(), instance.node.node);
        match instance.address() {
            Ok(address) => {
                let fitness = if healthcheck { instance.fitness() } else { Fitness::Unknown };
                let found = Found {
                    weight,
                    fitness,
                    zone: instance.zone(),
                    ..Found::new(instance.name().into(), address)
                };
                entries.add(&entry, found);
            }
            Err(reason) => entries.refuse(&entry, &reason),
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn instance(node: &str, id: &str, address: &str, port: u16, status: &str) -> Value {
        json!({
            "Node": {"ID": "x", "Node": node, "Address": "10.0.0.9", "Meta": null},
            "Service": {"ID": id, "Service": "web", "Tags": null, "Address": address, "Port": port,
                "Weights": {"Passing": 4, "Warning": 2}},
            "Checks": [{"CheckID": "serfHealth", "Name": "Serf Health Status", "Status": "passing", "Output": "alive"},
                {"CheckID": "service:web", "Name": "Service 'web' check", "Status": status, "Output": "refused\n"}],
        })
    }

    fn shown(instances: &Value) -> (Vec<Found>, Vec<String>) {
        let Entries { found, invalid, .. } = entries(&read(instances.to_string().as_bytes()).unwrap(), true);
        (found, invalid.into_iter().map(|one| format!("{}: {}", one.entry, one.reason)).collect())
    }

    #[test]
    fn an_instance_has_its_id_or_its_node_as_name() {
        let (found, invalid) = shown(&json!([
            instance("n2", "web", "", 81, "passing"),
            instance("n1", "web-1", "10.0.0.1", 80, "warning"),
            instance("n3", "web-3", "2001:db8::3", 80, "critical"),
        ]));
        let names: Vec<_> =
            found.iter().map(|one| (&*one.name, one.address.to_string(), one.weight)).collect();
        let expected = [
            ("n2", "10.0.0.9:81".to_owned(), 4),
            ("web-1", "10.0.0.1:80".to_owned(), 2),
            ("web-3", "[2001:db8::3]:80".to_owned(), 4),
        ];
        assert_eq!(names, expected);
        let critical = "the check \"Service 'web' check\" in Consul is critical: refused";
        let fitness: Vec<_> = found.into_iter().map(|one| one.fitness).collect();
        let expected = [Fitness::Healthy, Fitness::Healthy, Fitness::Unhealthy(critical.into())];
        assert_eq!(fitness, expected);
        assert!(invalid.is_empty(), "{invalid:?}");
    }

    #[test]
    fn an_instance_that_is_no_backend_has_its_reason() {
        let (found, invalid) = shown(&json!([
            instance("n", "a", "web.example.com", 80, "passing"),
            instance("n", "b", "10.0.0.1", 0, "passing"),
            instance("n", "c", "10.0.0.1", 80, "passing"),
            instance("m", "d", "10.0.0.1", 80, "passing"),
        ]));
        assert_eq!(found.iter().map(|one| &*one.name).collect::<Vec<_>>(), ["c"]);
        assert_eq!(
            invalid,
            [
                "a on n: its address \"web.example.com\" is no IP address",
                "b on n: its port 0 is not one from 1 to 65535",
                "d on m: another entry has its address 10.0.0.1:80 too",
            ]
        );
        assert_eq!(shown(&json!([])), (Vec::new(), Vec::new()));
        // An agent may leave out what is empty.
        let (found, _) = shown(
            &json!([{"Node": {"Node": "n", "Address": "10.0.0.1"}, "Service": {"Port": 80}, "Checks": null}]),
        );
        assert_eq!((&*found[0].name, found[0].weight, &found[0].fitness), ("n", 1, &Fitness::Healthy));
    }

    #[test]
    fn an_instance_may_have_a_zone() {
        let zone = |locality: Option<Value>| {
            let mut one = instance("n", "a", "10.0.0.1", 80, "passing");
            if let Some(locality) = locality {
                one["Service"]["Locality"] = locality;
            }
            shown(&json!([one])).0.remove(0).zone
        };
        assert_eq!(zone(Some(json!({"Region": "eu", "Zone": "eu-1a"}))), Some("eu-1a".into()));
        let unknown = [None, Some(Value::Null), Some(json!({})), Some(json!({"Region": "eu", "Zone": ""}))];
        assert!(unknown.into_iter().all(|locality| zone(locality).is_none()));
    }

    #[test]
    fn an_index_that_goes_backwards_starts_over() {
        assert_eq!(next_index(None, 7), Some(7));
        assert_eq!(next_index(Some(7), 7), Some(7));
        assert_eq!(next_index(Some(7), 9), Some(9));
        assert_eq!(next_index(Some(7), 6), None);
        assert_eq!(next_index(None, 0), Some(1));
    }

    #[test]
    fn a_query_has_the_settings_in_it() {
        let mut settings = Consul::new("web app/1".to_owned());
        assert_eq!(path(&settings, None), "/v1/health/service/web%20app%2F1");
        settings.service = "web".to_owned();
        settings.tags = vec!["v1".to_owned(), "a&b".to_owned()];
        settings.datacenter = Some("dc1".to_owned());
        let with = "/v1/health/service/web?tag=v1&tag=a%26b&dc=dc1";
        assert_eq!(path(&settings, None), with);
        assert_eq!(path(&settings, Some(9)), format!("{with}&index=9&wait=30000ms"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, text in r#"[{}\[\]":,a-zA-Z0-9]{0,60}"#) {
            let _ = (read(&bytes), read(text.as_bytes()));
        }

        #[test]
        fn every_instance_is_a_backend_or_has_a_reason(
            instances in prop::collection::vec((any::<String>(), any::<String>(), "10\\.0\\.0\\.[1-3]|.{0,5}", any::<u16>(), any::<String>()), 0..9),
            weight: u32,
        ) {
            let instances: Vec<_> = instances
                .iter()
                .map(|(node, id, address, port, status)| {
                    let mut one = instance(node, id, address, *port, status);
                    one["Service"]["Weights"]["Passing"] = weight.into();
                    one
                })
                .collect();
            let (found, invalid) = shown(&json!(instances));
            prop_assert_eq!(found.len() + invalid.len(), instances.len());
            prop_assert!(found.iter().all(|one| one.weight <= 256));
        }
    }
}
