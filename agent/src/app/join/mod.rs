//! How a node finds its way into another machine's cluster, and stays there.
//!
//! ```text
//! token ─► the CA is recognised ─► a certificate is asked for ─► kept in <data-dir>/pki ─► renewed before it ends
//!                                          ▲                                                        │
//!          with a certificate kept from before no token is needed ◄─────────────────────────────────┘
//! ```

mod ca;
mod held;
mod request;
mod rotate;
mod token;

use std::path::Path;

use jiff::Timestamp;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::cli::Failure;
use held::{Held, Keypair};
use rotate::Current;
pub(crate) use token::Token;

/// A node that may talk to the API.
pub(super) struct Joined {
    /// Always with the newest certificate.
    pub(super) client: Client,
    pub(super) ca_pem: String,
    rotation: rotate::Rotation,
}

impl Joined {
    /// Renews the certificate until told to stop; to run beside the node.
    pub(super) fn keep_fresh(&self, stop: CancellationToken) {
        tokio::spawn(self.rotation.clone().run(stop));
    }
}

/// What leads to a cluster.
pub(super) struct Way<'a> {
    pub(super) server: &'a str,
    pub(super) token: Option<&'a Token>,
    pub(super) data_dir: &'a Path,
    pub(super) node: &'a str,
}

impl Way<'_> {
    /// With the certificate of before if it is of this cluster and still good, otherwise with the token.
    pub(super) async fn join(&self) -> Result<Joined, Failure> {
        let url: http::Uri =
            self.server.parse().map_err(|e| format!("read server {:?}: {e}", self.server))?;
        let (Some("https"), Some(host)) = (url.scheme_str(), url.host()) else {
            return Err(
                format!("read server {:?}: it is not https://HOST:PORT", self.server).into()
            );
        };
        let pki = self.data_dir.join("pki");
        let held = match Held::load(&pki, self.node) {
            Ok(held) => held.filter(|held| self.is_good(held, Timestamp::now())),
            Err(error) => {
                tracing::warn!(%error, "the node's certificate of before is not used");
                None
            }
        };
        let held = match (held, self.token) {
            (Some(held), _) => held,
            (None, Some(token)) => {
                let ca = ca::fetch(host, url.port_u16().unwrap_or(6443), token.pin)
                    .await
                    .map_err(|e| format!("join {}: {e}", self.server))?;
                self.begin(&url, token, ca, &pki).await?
            }
            (None, None) => {
                return Err(format!(
                    "join {}: this node has no certificate that is still good; give it a token (`kobune token create`)",
                    self.server
                )
                .into());
            }
        };
        let client = held.client(&url)?;
        let current = Current::new(client);
        let client = current.client();
        let ca_pem = held.ca.clone();
        let node = self.node.to_owned();
        Ok(Joined {
            client,
            ca_pem,
            rotation: rotate::Rotation::new(current, url, pki, held, node),
        })
    }

    fn is_good(&self, held: &Held, now: Timestamp) -> bool {
        let same = self.token.is_none_or(|token| ca::digest(&held.ca) == Some(token.pin));
        same && held.until > now
    }

    /// The first certificate, by the token.
    async fn begin(
        &self,
        url: &http::Uri,
        token: &Token,
        ca: Vec<u8>,
        pki: &Path,
    ) -> Result<Held, Failure> {
        let ca_pem = ca::pem(&ca);
        let mut config = kube::Config::new(url.clone());
        config.root_cert = Some(vec![ca]);
        config.auth_info.token = Some(token.bearer.clone().into());
        let client = Client::try_from(config)?;
        let pair = request::certificate(&client, self.node).await;
        let pair = pair.map_err(|e| format!("join {} with the token: {e}", self.server))?;
        let held = Held::new(pair, ca_pem, self.node)?;
        held.save(pki)?;
        Ok(held)
    }
}
