//! The server's state and the path of one request through its stages.

use std::pin::Pin;
use std::sync::Arc;

use crate::SharedRegistry;
use http::{Method, Request, Response};
use parking_lot::RwLock;
use serve::Body;
use store::Store;

use crate::admission::Plugin;
use crate::answer;
use crate::authenticate::{Authenticator, Identity, Verdict};
use crate::authorize::{Attributes, Authorizer, decide, refusal};
use crate::handlers;
use crate::info::RequestInfo;
use crate::metrics::{Metrics, Watching};
use crate::negotiate;
use crate::query::Query;
use crate::resource::{Catalog, Resource};
use crate::status::Status;

/// Longest body accepted, in bytes.
pub const BODY_MAX: usize = 3 * 1024 * 1024;

/// What every request shares.
pub struct ApiServer {
    /// Where objects live.
    pub store: Arc<dyn Store>,
    /// The kinds served now.
    pub registry: SharedRegistry,
    catalog: RwLock<Arc<Catalog>>,
    /// Credentials that are known, asked in order.
    pub authenticators: RwLock<Vec<Arc<dyn Authenticator>>>,
    /// Who decides, asked in order.
    pub authorizers: RwLock<Arc<Vec<Arc<dyn Authorizer>>>>,
    /// Admission plugins in order.
    pub plugins: RwLock<Arc<Vec<Arc<dyn Plugin>>>>,
    /// Whether requests without a credential are `system:anonymous` rather than refused.
    pub anonymous: bool,
    /// Counts and durations.
    pub metrics: Metrics,
    /// What is set up from the configuration.
    pub settings: Settings,
    /// Cluster addresses and node ports in use.
    pub allocation: crate::services::Allocation,
    /// The definitions whose kinds are served, with their generations.
    pub custom_mark: parking_lot::Mutex<Vec<String>>,
    stop: tokio::sync::watch::Sender<bool>,
    /// Rules of roles and bindings.
    pub rbac: Arc<crate::authorize::Rbac>,
    /// The store, where it is one that can be backed up, and the data directory.
    pub embedded: std::sync::OnceLock<(Arc<store::Embedded>, std::path::PathBuf)>,
    /// What nodes last said of their usage.
    pub samples: crate::usage::Samples,
    /// Connections to webhooks and aggregated servers.
    pub outbound: serve::pool::Pool,
    /// Decoded objects that requests look up over and over.
    pub trees: crate::trees::Trees,
    /// How many requests of which kind are served at a time.
    pub fairness: crate::fairness::Fairness,
    /// Policies that were compiled.
    pub policies: crate::policies::Policies,
    /// Other API servers behind this one.
    pub aggregation: crate::aggregate::Aggregation,
    /// Which namespaces have quotas to be counted.
    pub quotas: crate::quota::Quotas,
    /// Signs and knows service-account tokens, once there is a key.
    pub tokens: std::sync::OnceLock<crate::authenticate::token::Tokens>,
    /// Further parts of the control plane that run within this process, as `componentstatuses` name them.
    pub components: RwLock<Vec<&'static str>>,
    /// Set once the objects every cluster has are in the store.
    pub bootstrapped: std::sync::atomic::AtomicBool,
}

/// Facts from the configuration that handlers need.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The address and port clients reach the server at from within the cluster.
    pub advertise: std::net::SocketAddr,
    /// Ranges of cluster addresses, the primary family first.
    pub service_cidrs: Vec<crate::services::Cidr>,
    /// First and last node port.
    pub node_ports: (u16, u16),
    /// What pods are held to where their namespace says nothing, and who is exempt.
    pub pod_security: policy::podsecurity::Settings,
    /// Other servers write to the same store.
    pub shared_store: bool,
    /// Certificate authority of the kubelets' serving certificates, PEM; and what to show them.
    pub kubelet: Option<crate::connect::KubeletAccess>,
}

/// One request on its way through the handlers.
pub struct Call {
    /// The server.
    pub server: Arc<ApiServer>,
    /// Who asks.
    pub identity: Arc<Identity>,
    /// What the path says.
    pub info: RequestInfo,
    /// What the query says.
    pub query: Query,
    /// Method, URI and headers.
    pub head: http::request::Parts,
    /// The body, until it is taken.
    pub body: parking_lot::Mutex<Body>,
    /// The kind.
    pub resource: Arc<Resource>,
    /// Lines for `Warning` headers.
    pub warnings: Vec<String>,
    /// Counts the watch that this request is.
    pub watching: Option<Watching>,
}

impl ApiServer {
    /// A server over a store, with nothing but `system:masters` allowed.
    pub fn new(store: Arc<dyn Store>, settings: Settings) -> Arc<Self> {
        let registry = SharedRegistry::new(api::Registry::builtin());
        let catalog = Catalog::new(registry.get());
        let rbac = Arc::new(crate::authorize::Rbac::default());
        let authorizers: Vec<Arc<dyn Authorizer>> = vec![
            Arc::new(crate::authorize::Masters),
            Arc::new(crate::authorize::OpenPaths),
            Arc::new(crate::authorize::Node::new(store.clone())),
            rbac.clone(),
        ];
        let allocation = crate::services::Allocation::new(&settings);
        Arc::new(Self {
            store,
            registry,
            catalog: RwLock::new(Arc::new(catalog)),
            authenticators: RwLock::new(Vec::new()),
            authorizers: RwLock::new(Arc::new(authorizers)),
            plugins: RwLock::new(Arc::new(crate::admission::all())),
            anonymous: true,
            metrics: Metrics::default(),
            settings,
            allocation,
            custom_mark: parking_lot::Mutex::new(Vec::new()),
            stop: tokio::sync::watch::Sender::new(false),
            tokens: std::sync::OnceLock::new(),
            rbac,
            trees: Default::default(),
            quotas: crate::quota::Quotas::default(),
            fairness: crate::fairness::Fairness::default(),
            policies: crate::policies::Policies::default(),
            aggregation: crate::aggregate::Aggregation::default(),
            outbound: serve::pool::Pool::default(),
            embedded: std::sync::OnceLock::new(),
            samples: crate::usage::Samples::default(),
            components: RwLock::new(Vec::new()),
            bootstrapped: std::sync::atomic::AtomicBool::new(false),
        })
    }

    /// The resources served now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.read().clone()
    }

    /// Serves another set of kinds from now on.
    pub fn set_registry(&self, registry: api::Registry) {
        self.registry.set(registry);
        *self.catalog.write() = Arc::new(Catalog::new(self.registry.get()));
        self.aggregation.kinds_changed();
    }

    /// Becomes true when the server ends: watches end with it.
    pub fn stopping(&self) -> tokio::sync::watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Ends watches and background work.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Asks the authorizers.
    pub fn authorize(&self, identity: &Identity, attributes: &Attributes) -> crate::authorize::Decision {
        let authorizers = self.authorizers.read().clone();
        decide(&authorizers, identity, attributes)
    }

    /// Answers a request whose sender shows the credentials in its head, or `certificate`.
    pub async fn handle_remote(
        self: &Arc<Self>,
        certificate: Option<&Arc<Identity>>,
        request: Request<Body>,
    ) -> Response<Body> {
        let (head, body) = request.into_parts();
        let began = std::time::Instant::now();
        let known = self.authenticate(certificate, &head).await;
        self.metrics.stages.authenticated(known.is_ok(), began);
        match known {
            Ok(identity) => self.answer(identity, Request::from_parts(head, body)).await,
            Err(status) => {
                let query = Query::parse(head.uri.query());
                answer::status(&status, negotiate::error_format(&head.headers, &query))
            }
        }
    }

    async fn authenticate(
        &self,
        certificate: Option<&Arc<Identity>>,
        head: &http::request::Parts,
    ) -> Result<Arc<Identity>, Status> {
        if let Some(identity) = certificate {
            return Ok(identity.clone());
        }
        match crate::authenticate::token::authenticate(self, head) {
            Verdict::Known(identity) => return Ok(identity),
            Verdict::Refused(reason) => {
                tracing::debug!(reason, "token refused");
                return Err(Status::unauthorized());
            }
            Verdict::Unknown => {}
        }
        let authenticators = self.authenticators.read().clone();
        for authenticator in authenticators {
            match authenticator.authenticate(head).await {
                Verdict::Known(identity) => return Ok(identity),
                Verdict::Refused(reason) => {
                    tracing::debug!(reason, "credential refused");
                    return Err(Status::unauthorized());
                }
                Verdict::Unknown => {}
            }
        }
        let credential = head.headers.contains_key(http::header::AUTHORIZATION);
        match self.anonymous && !credential {
            true => Ok(Arc::new(Identity::anonymous())),
            false => Err(Status::unauthorized()),
        }
    }

    /// Who else answers requests of this path.
    fn remote_of(&self, info: &RequestInfo) -> Option<Arc<crate::aggregate::Remote>> {
        if info.is_resource {
            return self.aggregation.find(&info.group, &info.version);
        }
        let segments: Vec<&str> = info.path.trim_matches('/').split('/').collect();
        match segments.as_slice() {
            ["apis", group, version] => self.aggregation.find(group, version),
            _ => None,
        }
    }

    /// Answers a request of this user, for callers within the process. The future is boxed for the reason that
    /// [`ApiServer::start`] gives.
    pub fn handle(
        self: &Arc<Self>,
        identity: Arc<Identity>,
        request: Request<Body>,
    ) -> Pin<Box<dyn Future<Output = Response<Body>> + Send + '_>> {
        Box::pin(self.answer(identity, request))
    }

    /// What the TLS path and callers within the process share.
    async fn answer(self: &Arc<Self>, identity: Arc<Identity>, request: Request<Body>) -> Response<Body> {
        let started = std::time::Instant::now();
        let (head, body) = request.into_parts();
        let query = Query::parse(head.uri.query());
        let info = RequestInfo::parse(&head.method, head.uri.path(), query.flag("watch"));
        let format = negotiate::error_format(&head.headers, &query);
        let applies = head
            .headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/apply-patch"));
        let labels = self.metrics.requests.begin(&info, applies, !query.text("dryRun").is_empty());
        let long = (info.verb == "watch").then(|| labels.watching());
        let response = match crate::authenticate::impersonate(self, identity, &head.headers) {
            Ok(identity) => {
                let entered = self.fairness.enter(&identity, &info, || self.listed(&info, &query)).await;
                let mut response = match entered.goes_on() {
                    true => {
                        let result = self.route(identity, info, query, (head, body), long).await;
                        result.unwrap_or_else(|status| answer::status(&status, format))
                    }
                    false => crate::fairness::refusal(),
                };
                entered.label(&mut response);
                response
            }
            Err(status) => answer::status(&status, format),
        };
        let bytes = http_body::Body::size_hint(response.body()).exact();
        self.metrics.requests.end(&labels, response.status().as_u16(), started.elapsed(), bytes);
        response
    }

    /// How many objects a list is over.
    fn listed(&self, info: &RequestInfo, query: &Query) -> usize {
        let catalog = self.catalog();
        let Some(resource) = catalog.get(&info.group, &info.version, &info.resource) else { return 0 };
        let all = self.store.snapshot(&resource.table).len();
        match query.number("limit") {
            Ok(Some(limit)) if limit > 0 => usize::try_from(limit).map_or(all, |limit| limit.min(all)),
            _ => all,
        }
    }

    async fn route(
        self: &Arc<Self>,
        identity: Arc<Identity>,
        info: RequestInfo,
        query: Query,
        (head, body): (http::request::Parts, Body),
        watching: Option<Watching>,
    ) -> Result<Response<Body>, Status> {
        let timeout = query.text("timeout");
        if !timeout.is_empty() && watching.is_none() && schema::duration::parse(timeout).is_err() {
            return Err(Status::bad_request("invalid timeout specified in the request URL"));
        }
        let mut attributes = Attributes::from(&info);
        if matches!(info.verb, "list" | "watch" | "deletecollection") {
            attributes.field_selector = query.text("fieldSelector").to_string();
            attributes.label_selector = query.text("labelSelector").to_string();
            // One object by its name is what `get` is to it.
            let named = attributes.field_selector.split(',').find_map(|t| t.strip_prefix("metadata.name="));
            if let Some(name) = named.filter(|_| attributes.name.is_empty()) {
                attributes.name = name.trim_start_matches('=').to_string();
            }
        }
        let began = std::time::Instant::now();
        let decision = self.authorize(&identity, &attributes);
        self.metrics.stages.authorized(decision.allowed, began);
        if !decision.allowed {
            let cause = refusal(&identity, &attributes, &decision.reason);
            return Err(match info.is_resource {
                true => Status::forbidden(&info.group, &info.resource, &info.name, &cause),
                false => {
                    let mut status = Status::forbidden("", "", "", &cause);
                    status.message = format!("forbidden: {cause}");
                    status
                }
            });
        }
        if self.aggregation.any()
            && let Some(remote) = self.remote_of(&info)
        {
            return crate::aggregate::forward(self, &remote, &identity, head, body).await;
        }
        if !info.is_resource {
            return Box::pin(crate::plain::answer(self, &identity, &info, &query, &head)).await;
        }
        let catalog = self.catalog();
        let Some(resource) = catalog.get(&info.group, &info.version, &info.resource) else {
            return Err(Status::no_resource());
        };
        let resource = resource.clone();
        let warnings = api::warnings::deprecated(&resource.def).map(str::to_owned).into_iter().collect();
        let (server, body) = (self.clone(), parking_lot::Mutex::new(body));
        let mut call = Call { server, identity, info, query, head, body, resource, warnings, watching };
        let result = handlers::dispatch(&mut call).await;
        // A refusal says them too: a webhook that refuses may have warned.
        let format = negotiate::error_format(&call.head.headers, &call.query);
        let mut response = result.unwrap_or_else(|status| answer::status(&status, format));
        answer::warn(&mut response, &call.warnings);
        Ok(response)
    }
}

impl Call {
    /// The answer's form.
    pub fn output(&self) -> Result<negotiate::Output, Status> {
        negotiate::output(&self.head.headers, &self.query, !self.resource.def.custom, true)
    }

    /// Reads the body, which may be empty.
    pub async fn take_body(&mut self) -> Result<bytes::Bytes, Status> {
        let body = std::mem::replace(self.body.get_mut(), serve::empty());
        let read = serve::limited(body, BODY_MAX);
        match tokio::time::timeout(std::time::Duration::from_secs(60), read).await {
            Ok(Ok(Some(bytes))) => Ok(bytes),
            Ok(Ok(None)) => Err(Status::too_large(BODY_MAX)),
            Ok(Err(cause)) => Err(Status::bad_request(format!("read request body: {cause}"))),
            Err(_) => Err(Status::new(408, "Timeout", "request body did not arrive in time")),
        }
    }

    /// The resource's group and plural, for statuses.
    pub fn names(&self) -> (&str, &str) {
        (&self.resource.def.group, &self.resource.def.plural)
    }

    /// 404 on the object of the request.
    pub fn not_found(&self, name: &str) -> Status {
        let (group, plural) = self.names();
        Status::not_found(group, plural, name)
    }

    /// Whether this method fits.
    pub fn is(&self, method: &Method) -> bool {
        self.head.method == *method
    }
}
