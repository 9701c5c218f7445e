//! How the small client commands reach the API.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::Failure;
use crate::config::DEFAULT_KUBECONFIG;

#[derive(Debug, Args)]
pub(super) struct Access {
    /// How to reach the API [default: $KUBECONFIG, /etc/kobune/kubeconfig.yaml, ~/.kube/config]
    #[arg(long, value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// Namespace [default: the kubeconfig's, or `default`]
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

impl Access {
    /// A client, and the namespace that is meant.
    pub(super) async fn open(&self) -> Result<(Client, String), Failure> {
        let config = self.config().await?;
        let namespace = match &self.namespace {
            Some(namespace) => namespace.clone(),
            None => config.default_namespace.clone(),
        };
        Ok((Client::try_from(config).map_err(explain)?, namespace))
    }

    /// Where the API is, and how it is known.
    pub(super) async fn config(&self) -> Result<kube::Config, Failure> {
        Ok(match self.path() {
            Some(path) => {
                let read = |e| format!("read kubeconfig {path:?}: {e}");
                let file = Kubeconfig::read_from(&path).map_err(read)?;
                kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .map_err(|e| format!("use kubeconfig {path:?}: {e}"))?
            }
            None => kube::Config::infer().await.map_err(|e| {
                format!("find kubeconfig: {e} (is `kobune up` running? then {DEFAULT_KUBECONFIG} exists)")
            })?,
        })
    }

    /// The namespace that was asked for in words.
    pub(super) fn given_namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Where kubectl's own rules find a file they are followed, but for ours coming before ~/.kube/config.
    fn path(&self) -> Option<PathBuf> {
        if self.kubeconfig.is_some() {
            return self.kubeconfig.clone();
        }
        let ours = Path::new(DEFAULT_KUBECONFIG);
        (std::env::var_os("KUBECONFIG").is_none() && ours.exists()).then(|| ours.to_owned())
    }
}

/// Run a client command on a small runtime.
pub(super) fn block_on(
    command: impl Future<Output = Result<ExitCode, Failure>>,
) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("start runtime: {e}"))?;
    let result = runtime.block_on(command);
    // A read of standard input cannot be cancelled; it must not keep the program alive.
    runtime.shutdown_background();
    result
}

/// The API's own words where it answered.
pub(super) fn explain(error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => format!("error from server: {}", status.message).into(),
        other => format!("reach the API: {}", super::chain(&other)).into(),
    }
}

/// An empty or JSON request.
pub(super) fn request(
    method: http::Method,
    uri: &str,
    content: Option<(&str, &serde_json::Value)>,
    accept: &str,
) -> Result<http::Request<Vec<u8>>, Failure> {
    let builder = http::Request::builder().method(method).uri(uri).header("accept", accept);
    let request = match content {
        Some((kind, value)) => {
            builder.header("content-type", kind).body(serde_json::to_vec(value)?)
        }
        None => builder.body(Vec::new()),
    };
    Ok(request?)
}

/// One of our standard streams, for asynchronous use.
pub(super) fn stdio(stream: impl std::os::fd::AsFd) -> Result<tokio::fs::File, Failure> {
    let owned = stream.as_fd().try_clone_to_owned();
    let owned = owned.map_err(|e| format!("open standard stream: {e}"))?;
    Ok(tokio::fs::File::from_std(std::fs::File::from(owned)))
}
