//! The control plane as a part of this process: its start, its kubeconfig, clients that need no network.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kobune_controlplane::{ControlPlane, Options, UserInfo};
use kube::Client;

use super::node::{self, Identity};
use crate::cli::Failure;
use crate::config::Config;

/// Size of a node's share of the cluster's range.
const NODE_MASK: u8 = 24;

/// First line of a kubeconfig that `kobune down` may remove; the data directory follows.
const MARK: &str = "# written by kobune for ";

pub(super) struct Plane {
    plane: ControlPlane,
}

impl Plane {
    /// Start serving, then write the kubeconfig.
    pub(super) async fn start(config: &Config) -> Result<Self, Failure> {
        let address = node::address(config);
        let options = Options {
            data_dir: config.data_dir.clone(),
            bind_address: config.bind_address,
            advertise_address: address.into(),
            secure_port: config.secure_port,
            service_cidr: config.service_cidr,
            cluster_cidr: config.cluster_cidr,
            node_cidr_mask: NODE_MASK,
            load_balancer_pool: config.load_balancer_pool.clone().unwrap_or_default(),
            extra_sans: vec![config.node_name.clone()],
            etcd: config.etcd.clone(),
        };
        let plane = Self { plane: ControlPlane::start(options).await? };
        match write_kubeconfig(config, &plane.plane.admin_kubeconfig()?) {
            Ok(()) => Ok(plane),
            Err(e) => {
                plane.shutdown().await;
                Err(e)
            }
        }
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", self.plane.address())
    }

    /// As an administrator.
    pub(super) fn client(&self) -> Client {
        self.client_of(UserInfo::new("kubernetes-admin", &["system:masters"]))
    }

    /// What a node of this process needs.
    pub(super) fn identity(&self, config: &Config) -> Result<Identity, Failure> {
        let name = &config.node_name;
        let user = UserInfo::new(
            &format!("system:node:{name}"),
            &["system:nodes", "system:authenticated"],
        );
        let ips = [node::address(config).into()];
        Ok(Identity {
            client: self.client_of(user),
            client_ca: self.plane.ca_pem().to_owned(),
            serving: self.plane.kubelet_serving_cert(name, &ips)?,
        })
    }

    fn client_of(&self, user: UserInfo) -> Client {
        Client::new(self.plane.handler(user), "default")
    }

    pub(super) async fn shutdown(self) {
        self.plane.shutdown().await;
    }
}

fn write_kubeconfig(config: &Config, text: &str) -> Result<(), Failure> {
    let path = &config.kubeconfig;
    let failed = |e: io::Error| format!("write kubeconfig {path:?}: {e}");
    let dir = path.parent().unwrap_or(Path::new("/"));
    let write = || -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
        writeln!(file, "{}", mark(&config.data_dir))?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    Ok(write().map_err(failed)?)
}

fn mark(data_dir: &Path) -> String {
    format!("{MARK}{}", data_dir.display())
}

/// Remove the kubeconfig, if it is the one that was written for this data directory.
pub(super) fn remove_kubeconfig(config: &Config) -> io::Result<()> {
    let text = match fs::read_to_string(&config.kubeconfig) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    match text.lines().next() {
        Some(line) if line == mark(&config.data_dir) => fs::remove_file(&config.kubeconfig),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Facts, Settings};

    #[test]
    fn the_kubeconfig_is_private_and_only_ours_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let settings = |data: &str| Settings {
            data_dir: Some(data.into()),
            write_kubeconfig: Some("new/kubeconfig".into()),
            ..Settings::default()
        };
        let facts = Facts { hostname: "n".into(), current_dir: dir.path().into() };
        let (ours, other) =
            (settings("a").check(&facts).unwrap(), settings("b").check(&facts).unwrap());
        write_kubeconfig(&ours, "kind: Config\n").unwrap();
        let mode = fs::metadata(&ours.kubeconfig).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        remove_kubeconfig(&other).unwrap();
        assert!(ours.kubeconfig.exists());
        remove_kubeconfig(&ours).unwrap();
        assert!(!ours.kubeconfig.exists());
        remove_kubeconfig(&ours).unwrap();
    }
}
