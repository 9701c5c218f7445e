//! A Pod's account at the moment the Pod is created: looked up, and waited for where it is about to come.

use std::time::Duration;

use serde_json::Value;

use super::{Api, errors, meta};
use crate::admission::account::{self, ACCOUNTS, DEFAULT};
use crate::kinds::Kind;
use crate::reader::Reader;
use crate::status::ApiError;

/// How long a Pod may be ahead of its namespace's own account, as upstream: a namespace and its Pods often come
/// from one file.
const PATIENCE: Duration = Duration::from_secs(2);

impl Api {
    /// A server that gives out no tokens knows no accounts either.
    pub(super) async fn admit_account(
        &self,
        kind: &Kind,
        namespace: &str,
        value: &mut Value,
    ) -> Result<(), ApiError> {
        if kind.resource != "pods" || self.accounts.is_none() || account::is_mirror(value) {
            return Ok(());
        }
        if account::name(value) == DEFAULT {
            // Whether it came in time is found out below.
            let _ = tokio::time::timeout(PATIENCE, self.default_account(namespace)).await;
        }
        let name = meta::text(value, "name").to_owned();
        account::complete(&*self.store, namespace, value, &meta::generate)
            .map_err(|why| errors::forbidden(kind, &name, &why))
    }

    async fn default_account(&self, namespace: &str) {
        let missing = || self.store.get(ACCOUNTS, namespace, DEFAULT).is_none();
        if !missing() {
            return;
        }
        // Watch first, then look: so nothing is missed.
        let Ok(mut news) = self.store.watch(ACCOUNTS, self.store.revision()) else { return };
        while missing() && news.take(usize::MAX).is_ok() {
            news.changed().await;
        }
    }
}
