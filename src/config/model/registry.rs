//! Sources that a server has which programs register at: etcd, Consul and Kubernetes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::check;
use super::super::decode::MapReader;
use super::super::keys::settings;
use super::super::kind::{list, one_or_list, optional, shorthand, table};
use super::super::scalar::{flag, path, text, time, time_from, time_within};
use super::super::value::{
    HttpUrl, ServicePort, http_url, key_prefix, object_name, service_name, service_port,
};
use super::ClientTls;

/// How long the last good state of such a server stays in use, by default: time enough to restart it.
const HOLD: Duration = Duration::from_secs(10);

const NO_ENDPOINT: &str = "at least one URL is needed";

/// What the sources have in common: how their server is reached.
pub trait RegistryServer {
    /// The URLs of the server's members, of which any may answer.
    fn endpoints(&self) -> &[HttpUrl];
    /// TLS of those with `https`.
    fn tls(&self) -> Option<&ClientTls>;
    /// What messages call the file with its password or token.
    const SECRET: &'static str;
    /// That file.
    fn secret_file(&self) -> Option<&Path>;
}

settings! {
    /// An item of `discover` with keys in etcd.
    pub(super) struct EtcdItem {
        /// The keys under a prefix in etcd, each of which is a backend: the prefix, or more than that.
        etcd: Etcd => shorthand(key_prefix(), Etcd::new), required "/services/web/";
        /// How often all keys are read again, besides the watch: that notices a watch which the network or the server
        /// has cut off without an error.
        every: Duration => time_from(Duration::from_millis(100)), default EVERY;
        /// How long the last good state stays in use while etcd cannot be queried; after that, backends leave whose
        /// checks fail too.
        hold: Duration => time(), default HOLD;
    }
}

/// How often the keys are read again, by default. A change is late by at most that time if the watch was cut off, and
/// one read in ten seconds is little work for etcd.
const EVERY: Duration = Duration::from_secs(10);

settings! {
    /// The keys under a prefix in etcd (`etcd`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Etcd: new, check check::registry {
        /// What the keys begin with. The rest of a key is the backend's name; the value is its address, or a JSON object
        /// with the keys of an entry of `static`.
        prefix: String => key_prefix(), required "/services/web/";
        /// The URLs of the members, one or a list. The next one is tried when one fails.
        endpoints: Vec<HttpUrl> => one_or_list(http_url(), NO_ENDPOINT), default vec![HttpUrl::local(2379)];
        /// The user that logs in. Absent: no login.
        user: Option<String> => optional(text()), absent None, example "pointsman", with "password_file";
        /// The file with the user's password. It is read for each login.
        password_file: Option<PathBuf> => optional(path()), absent None, example "/run/secrets/etcd", with "user";
        /// TLS on the connections.
        tls: Option<ClientTls> => optional(table()), absent None, only "with an endpoint that begins with https";
    }
    also {
        /// How often all keys are read again.
        every: Duration = EVERY;
        /// How long the last good state stays in use while etcd cannot be queried.
        hold: Duration = HOLD;
    }
}

settings! {
    /// An item of `discover` with a service in Consul.
    pub(super) struct ConsulItem {
        /// The instances of a service in Consul's catalog: the name of the service, or more than that.
        consul: Consul => shorthand(service_name(), Consul::new), required "web";
        /// How long the last good state stays in use while Consul cannot be queried; after that, backends leave whose
        /// checks fail too.
        hold: Duration => time(), default HOLD;
    }
}

settings! {
    /// The instances of a service in Consul's catalog (`consul`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Consul: new, check check::registry {
        /// The name of the service.
        service: String => service_name(), required "web";
        /// The URLs of agents or servers, one or a list. The next one is tried when one fails.
        endpoints: Vec<HttpUrl> => one_or_list(http_url(), NO_ENDPOINT), default vec![HttpUrl::local(8500)];
        /// Tags, all of which an instance must have. Absent: any instance.
        tags: Vec<String> => list(service_name(), "a tag", "[v1]", Some("at least one tag is needed")),
            absent Vec::new(), example "[v1]";
        /// The datacenter. Absent: that of the agent.
        datacenter: Option<String> => optional(service_name()), absent None, example "dc1";
        /// The file with the ACL token, which is read for each query. Absent: none is sent.
        token_file: Option<PathBuf> => optional(path()), absent None, example "/run/secrets/consul";
        /// How long a query waits for a change before it is made again. A connection that was cut off without an error is
        /// noticed a sixteenth of it plus five seconds later.
        wait: Duration => time_within(Duration::from_secs(1)..=Duration::from_secs(600)),
            default Duration::from_secs(30);
        /// Whether an instance is up only while none of its checks in Consul is critical.
        healthcheck: bool => flag(), default true;
        /// TLS on the connections.
        tls: Option<ClientTls> => optional(table()), absent None, only "with an endpoint that begins with https";
    }
    also {
        /// How long the last good state stays in use while Consul cannot be queried.
        hold: Duration = HOLD;
    }
}

/// The folder with what a Pod needs to reach the API server (Kubernetes' documentation, "Accessing the Kubernetes API from
/// a Pod").
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

settings! {
    /// An item of `discover` with a Service of Kubernetes.
    pub(super) struct KubernetesItem {
        /// The Pods of a Service of Kubernetes, by its EndpointSlices: the name of the Service, or more than that.
        kubernetes: Kubernetes => shorthand(object_name(), Kubernetes::new), required "web";
        /// How long the last good state stays in use while the API server cannot be queried; after that, backends leave
        /// whose checks fail too.
        hold: Duration => time(), default HOLD;
    }
}

settings! {
    /// The Pods of a Service of Kubernetes (`kubernetes`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Kubernetes: new, check Kubernetes::check {
        /// The name of the Service.
        service: String => object_name(), required "web";
        /// The namespace of the Service. Absent: that of Pointsman's own Pod.
        namespace: Option<String> => optional(object_name()), absent None, example "default";
        /// The port: its name in the Service, or the number of the Pods' port. Absent: the only port of the Service.
        port: Option<ServicePort> => optional(service_port()), absent None, example "http";
        /// The URLs of API servers, one or a list. The next one is tried when one fails. A Pod on the network of its node
        /// (`hostNetwork`) needs `dnsPolicy: ClusterFirstWithHostNet` to find the default one.
        endpoints: Vec<HttpUrl> => one_or_list(http_url(), NO_ENDPOINT), default vec![HttpUrl::kubernetes()];
        /// The file with the token, which is read for each request. Absent: with https that of the Pod's service account,
        /// unless `tls` has a `cert_file`.
        token_file: Option<PathBuf> => optional(path()), absent Some(of_service_account("token")),
            example "/var/run/secrets/kubernetes.io/serviceaccount/token";
        /// How long a watch lasts before it is made again. A connection that was cut off without an error is noticed five
        /// seconds later.
        wait: Duration => time_within(Duration::from_secs(1)..=Duration::from_secs(600)),
            default Duration::from_secs(30);
        /// Whether a backend is up only while Kubernetes reports its Pod as ready.
        healthcheck: bool => flag(), default true;
        /// TLS on the connections. Absent: with https the authorities of the Pod's service account.
        tls: Option<ClientTls> => optional(table()),
            absent Some(ClientTls { ca_file: Some(of_service_account("ca.crt")), ..ClientTls::default() }),
            only "with an endpoint that begins with https";
    }
    also {
        /// How long the last good state stays in use while the API server cannot be queried.
        hold: Duration = HOLD;
    }
}

impl Kubernetes {
    /// The file with the namespace of Pointsman's own Pod.
    pub fn namespace_file() -> PathBuf {
        of_service_account("namespace")
    }

    /// Checks the settings, and leaves out what a Pod has at fixed places where it has no use.
    fn check(&mut self, map: &MapReader<'_>) {
        let encrypted = self.endpoints.iter().any(|url| url.tls);
        if !encrypted && !map.has("tls") {
            self.tls = None;
        }
        let certificate = self.tls.as_ref().is_some_and(|tls| tls.cert_file.is_some());
        if (!encrypted || certificate) && !map.has("token_file") {
            self.token_file = None;
        }
        check::registry(self, map);
    }
}

/// A file of the service account.
fn of_service_account(file: &str) -> PathBuf {
    Path::new(SERVICE_ACCOUNT).join(file)
}

/// Declares how the server of a source is reached, and which keys of its item in `discover` are not in the source's own map.
macro_rules! registry_server {
    ($source:ident as $key:ident in $item:ident, beside $($field:ident),+; $secret:ident is the $what:literal) => {
        impl From<$item> for $source {
            fn from($item { $key, $($field),+ }: $item) -> Self {
                Self { $($field,)+ ..$key }
            }
        }

        impl From<$source> for $item {
            fn from($key: $source) -> Self {
                Self { $($field: $key.$field,)+ $key }
            }
        }

        impl RegistryServer for $source {
            const SECRET: &'static str = $what;

            fn secret_file(&self) -> Option<&Path> {
                self.$secret.as_deref()
            }

            fn endpoints(&self) -> &[HttpUrl] {
                &self.endpoints
            }

            fn tls(&self) -> Option<&ClientTls> {
                self.tls.as_ref()
            }
        }
    };
}

registry_server!(Etcd as etcd in EtcdItem, beside every, hold; password_file is the "password file");
registry_server!(Consul as consul in ConsulItem, beside hold; token_file is the "token file");
registry_server!(Kubernetes as kubernetes in KubernetesItem, beside hold; token_file is the "token file");
