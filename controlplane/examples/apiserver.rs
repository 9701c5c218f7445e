//! The control plane alone, on 127.0.0.1: for trying clients against it without a node.
//!
//! `cargo run -p kobune-controlplane --example apiserver -- DIRECTORY [PORT]` keeps its data in DIRECTORY, writes
//! `kubeconfig.yaml` there, and serves until its standard input ends.

use std::error::Error;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use kobune_controlplane::{ControlPlane, Options};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let data_dir = PathBuf::from(arguments.next().ok_or("usage: apiserver DIRECTORY [PORT]")?);
    let secure_port = arguments.next().map_or(Ok(0), |port| port.parse())?;
    std::fs::create_dir_all(&data_dir)?;
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let control_plane = ControlPlane::start(Options {
        data_dir: data_dir.clone(),
        bind_address: localhost,
        advertise_address: localhost,
        secure_port,
        service_cidr: "10.96.0.0/16".parse()?,
        cluster_cidr: "10.244.0.0/16".parse()?,
        node_cidr_mask: 24,
        load_balancer_pool: Default::default(),
        extra_sans: Vec::new(),
        etcd: None,
    })
    .await?;
    let kubeconfig = data_dir.join("kubeconfig.yaml");
    std::fs::write(&kubeconfig, control_plane.admin_kubeconfig()?)?;
    println!("https://{} {}", control_plane.address(), kubeconfig.display());
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    control_plane.shutdown().await;
    Ok(())
}
