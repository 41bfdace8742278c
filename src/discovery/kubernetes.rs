//! The Pods of a Service of Kubernetes as backends: its EndpointSlices, listed once and then watched (Kubernetes'
//! documentation, "Kubernetes API Concepts", "Efficient detection of changes").
//!
//! A watch ends after the time that its request states, and the next one continues at the last version that was seen. A
//! connection that is cut off without an error is noticed as it is silent for longer than that.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use hyper::{Method, StatusCode, header};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::http_api::{ANSWER, ApiRequest, HttpApi, HttpApiError, HttpApiErrorKind, read_secret};
use super::json_lines::JsonWatch;
use super::kubernetes_json::{EndpointSlice, SliceEvent, entries, slice_event, slice_list};
use super::registry::{Answers, RegistrySource};
use crate::config::Kubernetes;
use crate::http1::encode;
use crate::text_file::secret;

/// The least interval between the begins of requests that follow one another: a server that ends each watch at once must
/// not be queried all the time.
const BETWEEN_REQUESTS: Duration = Duration::from_secs(1);

/// The version of the API that has EndpointSlices, since Kubernetes 1.21.
const SLICES: &str = "/apis/discovery.k8s.io/v1";

/// The source for the Pods of a Service.
pub(super) struct KubernetesSource {
    settings: Kubernetes,
    /// The slices of the Service, by name.
    slices: BTreeMap<String, EndpointSlice>,
}

/// How a watch has ended.
enum WatchEnd {
    /// In order: another one can continue it.
    Continue,
    /// The version is too old: the slices must be listed again.
    Expired,
}

impl RegistrySource for KubernetesSource {
    // A watch reports a change at once: another query would find nothing newer.
    async fn follow(&mut self, api: &HttpApi, _: &Notify, answers: &mut Answers) -> HttpApiError {
        match self.list_and_watch(api, answers).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }
}

impl KubernetesSource {
    pub(super) fn new(settings: Kubernetes) -> Self {
        Self { settings, slices: BTreeMap::new() }
    }

    async fn list_and_watch(
        &mut self,
        api: &HttpApi,
        answers: &mut Answers,
    ) -> Result<Infallible, HttpApiError> {
        loop {
            let mut next = Instant::now() + BETWEEN_REQUESTS;
            let mut version = self.list(api).await?;
            self.report(answers);
            while let WatchEnd::Continue = self.watch(api, &mut version, answers).await? {
                sleep_until(next).await;
                next = Instant::now() + BETWEEN_REQUESTS;
            }
            sleep_until(next).await;
        }
    }

    fn report(&self, answers: &mut Answers) {
        answers.report(entries(self.slices.values(), &self.settings));
    }

    /// Lists the slices; returns their version.
    async fn list(&mut self, api: &HttpApi) -> Result<String, HttpApiError> {
        let request = self.request(api, "").await?;
        let (_, body) = api.fetch(&request, ANSWER).await?;
        let read = slice_list(&body);
        let (version, slices) =
            read.map_err(|error| api.error(HttpApiErrorKind::Failed, &request, &not_kubernetes(&error)))?;
        self.slices = slices.into_iter().map(|slice| (slice.name().to_owned(), slice)).collect();
        Ok(version)
    }

    /// Watches the slices from a version on, and keeps the version up to date.
    async fn watch(
        &mut self,
        api: &HttpApi,
        version: &mut String,
        answers: &mut Answers,
    ) -> Result<WatchEnd, HttpApiError> {
        let wait = self.settings.wait;
        let deadline = Instant::now() + wait + ANSWER;
        let request = self.request(api, &watch_parameters(version, wait)).await?;
        let response = match api.start(&request, ANSWER).await {
            Ok(response) => response,
            Err(HttpApiError { kind: HttpApiErrorKind::Refused(StatusCode::GONE), .. }) => {
                return Ok(WatchEnd::Expired);
            }
            Err(error) => return Err(error),
        };
        let mut watch = JsonWatch::new(request, response);
        loop {
            let Ok(line) = timeout_at(deadline, watch.next(api)).await else {
                let limit = humantime::format_duration(wait + ANSWER);
                let what = format!("the watch did not end within {limit}");
                return Err(api.error(HttpApiErrorKind::Timeout, &watch.request, &what));
            };
            let Some(line) = line? else { return Ok(WatchEnd::Continue) };
            let failed = |what: &str| api.error(HttpApiErrorKind::Failed, &watch.request, what);
            match slice_event(&line).map_err(|error| failed(&not_kubernetes(&error)))? {
                SliceEvent::Changed(slice) => {
                    slice.version().clone_into(version);
                    self.slices.insert(slice.name().to_owned(), slice);
                    self.report(answers);
                }
                SliceEvent::Deleted(slice) => {
                    slice.version().clone_into(version);
                    if self.slices.remove(slice.name()).is_some() {
                        self.report(answers);
                    }
                }
                SliceEvent::Version(now) => *version = now,
                SliceEvent::Expired => return Ok(WatchEnd::Expired),
                SliceEvent::Error(reason) => {
                    return Err(failed(&format!("the API server ended the watch: {reason}")));
                }
            }
        }
    }

    async fn request(&self, api: &HttpApi, more: &str) -> Result<ApiRequest, HttpApiError> {
        let mut request = ApiRequest {
            method: Method::GET,
            path: SLICES.to_owned(),
            secret: None,
            secret_header: Some((header::AUTHORIZATION, "Bearer ")),
            body: None,
        };
        let failed = |request: &ApiRequest, error: &str| api.error(HttpApiErrorKind::Failed, request, error);
        let namespace = namespace(&self.settings).await.map_err(|error| failed(&request, &error))?;
        request.path = path(&namespace, &self.settings.service, more);
        let token = read_secret(&self.settings).await;
        request.secret = token.map_err(|error| failed(&request, &error))?;
        Ok(request)
    }
}

/// The namespace of the Service: the one in the settings, or that of Pointsman's own Pod.
pub(super) async fn namespace(settings: &Kubernetes) -> Result<String, String> {
    if let Some(namespace) = &settings.namespace {
        return Ok(namespace.clone());
    }
    let read = secret("namespace file", Some(&Kubernetes::namespace_file())).await;
    let read = read.map_err(|error| format!("{error}, or outside of a Pod, set `namespace`"))?;
    Ok(read.unwrap_or_default().trim().to_owned())
}

fn path(namespace: &str, service: &str, more: &str) -> String {
    let [namespace, service] = [namespace, service].map(encode);
    format!(
        "{SLICES}/namespaces/{namespace}/endpointslices\
         ?labelSelector=kubernetes.io%2Fservice-name%3D{service}{more}"
    )
}

fn watch_parameters(version: &str, wait: Duration) -> String {
    let version = encode(version);
    let seconds = wait.as_secs();
    format!("&watch=true&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds={seconds}")
}

/// The error for a reply that cannot be read.
fn not_kubernetes(error: &str) -> String {
    format!("the reply is not that of Kubernetes ({error}); check the endpoint")
}
