//! The control plane as one thing to start and stop. It owns the order: store, API, bootstrap, deciders, listener;
//! and backwards on shutdown.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use ipnet::Ipv4Net;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Api, Body, BoxError, NodeClient, Registry, UserInfo, api_address};
use crate::auth::shared::share;
use crate::auth::{Accounts, Authenticator, Pair, Pki, PkiError, SharedError};
use crate::context::{Config, Ctx};
use crate::controllers::balancer::Pool;
use crate::election::Candidate;
use crate::server::Server;
use crate::status::ApiError;
use crate::store::etcd::{self, Etcd};
use crate::store::{BackendError, Store};
use crate::{bootstrap, controllers, kinds, scheduler};

#[derive(Debug, Clone)]
pub struct Options {
    /// Holds `store.redb` and `pki/`; must exist.
    pub data_dir: PathBuf,
    pub bind_address: IpAddr,
    /// Where others find this server.
    pub advertise_address: IpAddr,
    /// 0 takes any free port.
    pub secure_port: u16,
    pub service_cidr: Ipv4Net,
    pub cluster_cidr: Ipv4Net,
    pub node_cidr_mask: u8,
    /// Addresses for Services of type LoadBalancer.
    pub load_balancer_pool: Pool,
    /// More names and addresses for the server's certificate.
    pub extra_sans: Vec<String>,
    /// Objects are there, and other servers may be, in place of `store.redb`.
    pub etcd: Option<etcd::Options>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Store(#[from] BackendError),
    #[error(transparent)]
    Shared(#[from] SharedError),
    #[error("create the objects that every cluster has: {0}")]
    Bootstrap(ApiError),
    #[error("listen on {address}: {cause}")]
    Listen { address: SocketAddr, cause: std::io::Error },
    #[error("start the store's thread: {0}")]
    Join(#[from] tokio::task::JoinError),
}

/// A running control plane.
pub struct ControlPlane {
    api: Arc<Api>,
    pki: Arc<Pki>,
    address: SocketAddr,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl ControlPlane {
    /// Returns when requests are served.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let (store, pki) = open(&options).await?;
        let store = Arc::new(store);
        let bind = SocketAddr::new(options.bind_address, options.secure_port);
        let listen = |cause| StartError::Listen { address: bind, cause };
        let listener = TcpListener::bind(bind).await.map_err(listen)?;
        let port = listener.local_addr().map_err(listen)?.port();
        let address = SocketAddr::new(options.advertise_address, port);
        let config = Arc::new(Config {
            service_cidr: options.service_cidr,
            cluster_cidr: options.cluster_cidr,
            node_cidr_mask: options.node_cidr_mask,
            load_balancer_pool: options.load_balancer_pool.clone(),
            ca_pem: pki.ca_pem().to_owned(),
            signer: Some(Arc::new(pki.signer()?)),
        });
        let shutdown = CancellationToken::new();
        let nodes = NodeClient::new(Arc::new(pki.node_client_config()?));
        let registry = Registry::new(kinds::all());
        let api = Api::new(
            store.clone(),
            registry,
            config.clone(),
            address,
            Some(nodes),
            shutdown.clone(),
        );
        let accounts = Arc::new(Accounts::open(&options.data_dir, store.clone())?);
        let api = Arc::new(api.with_accounts(accounts.clone()));
        bootstrap::run(&api, &config, address).await.map_err(StartError::Bootstrap)?;
        let tasks = TaskTracker::new();
        let ctx = Ctx { store, writer: api.clone(), config, shutdown: shutdown.clone() };
        match ctx.store.in_etcd().cloned() {
            None => {
                tasks.spawn(controllers::run(ctx.clone()));
                tasks.spawn(scheduler::run(ctx));
            }
            Some(etcd) => drop(tasks.spawn(stand(ctx, etcd, address))),
        }
        let pair = serving_pair(&pki, &options)?;
        let server = Server {
            api: api.clone(),
            auth: Authenticator::new(accounts, api.store().clone()),
            tls: Arc::new(pki.server_config(&pair)?).into(),
            shutdown: shutdown.clone(),
        };
        tasks.spawn(server.run(listener));
        let address = SocketAddr::new(reachable(&options), port);
        Ok(Self { api, pki: Arc::new(pki), address, shutdown, tasks })
    }

    /// Where clients on this machine find the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API in memory, on behalf of `user`.
    pub fn handler(&self, user: UserInfo) -> Handler {
        Handler { api: self.api.clone(), user: Arc::new(user) }
    }

    pub fn store(&self) -> &Arc<Store> {
        self.api.store()
    }

    /// A kubeconfig for administrators, certificates included.
    pub fn admin_kubeconfig(&self) -> Result<String, PkiError> {
        let admin = self.pki.client("kubernetes-admin", &["system:masters"])?;
        Ok(kubeconfig(&self.address, self.pki.ca_pem(), &admin))
    }

    pub fn ca_pem(&self) -> &str {
        self.pki.ca_pem()
    }

    /// For the node agent's own HTTPS server: certificate and key, PEM.
    pub fn kubelet_serving_cert(
        &self,
        node: &str,
        ips: &[IpAddr],
    ) -> Result<(String, String), PkiError> {
        let pair = self.pki.server(&format!("system:node:{node}"), ips, &[node.to_owned()])?;
        Ok((pair.certificate, pair.key))
    }

    /// For the node agent as a client: certificate and key, PEM.
    pub fn node_client_cert(&self, node: &str) -> Result<(String, String), PkiError> {
        let pair = self.pki.client(&format!("system:node:{node}"), &["system:nodes"])?;
        Ok((pair.certificate, pair.key))
    }

    /// Stops taking requests, lets those under way finish, stops the deciders, closes the store.
    pub async fn shutdown(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let store = self.api.store().clone();
        if let Err(error) = tokio::task::spawn_blocking(move || store.close()).await {
            tracing::error!(%error, "close the store");
        }
    }
}

async fn open(options: &Options) -> Result<(Store, Pki), StartError> {
    let dir = options.data_dir.clone();
    if let Some(etcd) = &options.etcd {
        let store = Store::etcd(etcd).await?;
        if let Some(etcd) = store.in_etcd() {
            share(etcd, &dir).await?;
        }
        return Ok((store, Pki::open(&dir)?));
    }
    let opened = tokio::task::spawn_blocking(move || {
        let store = Store::open(&dir.join("store.redb"))?;
        Ok::<_, StartError>((store, Pki::open(&dir)?))
    });
    opened.await?
}

/// Decides whenever it is this server's turn. What is decided is written through an API of its own, whose writes are good
/// only for so long.
async fn stand(ctx: Ctx, etcd: Arc<Etcd>, address: SocketAddr) {
    let candidate = Candidate {
        store: ctx.store.clone(),
        etcd,
        writer: ctx.writer.clone(),
        identity: format!("{address}_{}", uuid::Uuid::new_v4()),
        shutdown: ctx.shutdown.clone(),
    };
    let decide = move |fence, shutdown: CancellationToken| {
        let store = Arc::new(ctx.store.fenced(fence));
        let (registry, config) = (Registry::new(kinds::all()), ctx.config.clone());
        let token = shutdown.clone();
        let api = Api::new(store.clone(), registry, config.clone(), address, None, token);
        let ctx = Ctx { store, writer: Arc::new(api), config, shutdown };
        let (controllers, scheduler) = (controllers::run(ctx.clone()), scheduler::run(ctx));
        async move {
            tokio::join!(controllers, scheduler);
        }
    };
    candidate.run(decide).await;
}

/// The address that the kubeconfig names.
fn reachable(options: &Options) -> IpAddr {
    match options.bind_address.is_unspecified() {
        true => options.advertise_address,
        false => options.bind_address,
    }
}

fn serving_pair(pki: &Pki, options: &Options) -> Result<Pair, PkiError> {
    let mut ips = vec![
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V4(api_address(&options.service_cidr)),
        options.advertise_address,
    ];
    if !options.bind_address.is_unspecified() {
        ips.push(options.bind_address);
    }
    let mut names: Vec<String> = ["", ".default", ".default.svc", ".default.svc.cluster.local"]
        .map(|suffix| format!("kubernetes{suffix}"))
        .into();
    names.push("localhost".into());
    for san in &options.extra_sans {
        match san.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => names.push(san.clone()),
        }
    }
    pki.server("kube-apiserver", &ips, &names)
}

fn kubeconfig(address: &SocketAddr, ca: &str, admin: &Pair) -> String {
    let (ca, certificate, key) =
        (STANDARD.encode(ca), STANDARD.encode(&admin.certificate), STANDARD.encode(&admin.key));
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: kobune
  cluster:
    server: https://{address}
    certificate-authority-data: {ca}
users:
- name: kubernetes-admin
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: kobune
  context:
    cluster: kobune
    user: kubernetes-admin
current-context: kobune
preferences: {{}}
"
    )
}

/// The API as a `tower::Service`, for clients in this process.
#[derive(Clone)]
pub struct Handler {
    api: Arc<Api>,
    user: Arc<UserInfo>,
}

impl<B> tower::Service<Request<B>> for Handler
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (api, user) = (self.api.clone(), self.user.clone());
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { Ok(api.serve(&user, request).await) })
    }
}
