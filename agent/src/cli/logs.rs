//! `kobune logs`: what a container wrote, now or as it comes.

use std::process::ExitCode;

use clap::Args;
use futures::AsyncReadExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use tokio::io::AsyncWriteExt;

use super::Failure;
use super::client::{Access, explain, stdio};

#[derive(Debug, Args)]
pub(super) struct Logs {
    #[command(flatten)]
    access: Access,
    /// Stay and show what comes
    #[arg(short, long)]
    follow: bool,
    /// Of the container's previous run
    #[arg(short, long)]
    previous: bool,
    /// Only so many lines from the end
    #[arg(long, value_name = "N")]
    tail: Option<i64>,
    /// With the time of each line
    #[arg(long)]
    timestamps: bool,
    /// Which container, if the Pod has several
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    pod: String,
}

impl Logs {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let (client, namespace) = self.access.open().await?;
        let pods: Api<Pod> = Api::namespaced(client, &namespace);
        let params = LogParams {
            follow: self.follow,
            previous: self.previous,
            tail_lines: self.tail,
            timestamps: self.timestamps,
            container: self.container,
            ..LogParams::default()
        };
        let name = self.pod.strip_prefix("pod/").unwrap_or(&self.pod);
        let mut stream = Box::pin(pods.log_stream(name, &params).await.map_err(explain)?);
        let (mut out, mut buf) = (stdio(std::io::stdout())?, vec![0; 16 << 10]);
        loop {
            let n = stream.read(&mut buf).await.map_err(|e| format!("read log: {e}"))?;
            if n == 0 {
                return Ok(ExitCode::SUCCESS);
            }
            // Whoever reads us may have read enough.
            if out.write_all(&buf[..n]).await.is_err() || out.flush().await.is_err() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}
