//! From flags and file to a checked configuration. Pure: what must be asked of the machine comes in as [`Facts`].
//!
//! A setting has one name, as a flag (`--data-dir`) and in the file (`data-dir:`). A flag wins over the file, the
//! file over the default. Names that the file has and we do not are refused by name.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use kobune_controlplane::Pool;
use kobune_controlplane::store::etcd::{Options as Etcd, Tls};
use serde::{Deserialize, Serialize};

/// Read when it exists and no other is named.
pub const DEFAULT_FILE: &str = "/etc/kobune/config.yaml";
pub const DEFAULT_KUBECONFIG: &str = "/etc/kobune/kubeconfig.yaml";
pub const DEFAULT_DATA_DIR: &str = "/var/lib/kobune";

/// Every node gets a /24 of the cluster's range.
const NODE_MASK: u8 = 24;

/// Settings as given, by flags or by the file; nothing checked but their types.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// What survives a reboot: objects, keys, images, volumes [default: /var/lib/kobune]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What does not: sockets, records of running Pods [default: /run/kobune]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Container logs: <DIR>/<namespace>_<pod>_<uid>/<container>/<n>.log [default: /var/log/pods]
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// Where in the cgroup v2 hierarchy the Pods' cgroups are [default: kobune]
    #[arg(long, value_name = "PATH")]
    pub cgroup_root: Option<PathBuf>,
    /// Where the administrator's kubeconfig is written [default: /etc/kobune/kubeconfig.yaml]
    #[arg(long, value_name = "PATH")]
    pub write_kubeconfig: Option<PathBuf>,
    /// The Node object's name [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The node's address [default: the one packets leave from]
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Option<Ipv4Addr>,
    /// Range of Pod addresses; every node takes a /24 of it [default: 10.244.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub cluster_cidr: Option<Ipv4Net>,
    /// Range of Service addresses [default: 10.96.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub service_cidr: Option<Ipv4Net>,
    /// Addresses for Services of type LoadBalancer: ranges like 192.0.2.240/28 or
    /// 192.0.2.240-192.0.2.250, separated by commas [default: none, such Services wait]
    #[arg(long, value_name = "RANGES")]
    pub load_balancer_pool: Option<String>,
    /// Port of the API server [default: 6443]
    #[arg(long, value_name = "PORT")]
    pub secure_port: Option<u16>,
    /// Address that the API server listens on [default: 0.0.0.0]
    #[arg(long, value_name = "ADDRESS")]
    pub bind_address: Option<IpAddr>,
    /// Port of the node's own server (logs, exec) [default: 10250]
    #[arg(long, value_name = "PORT")]
    pub kubelet_port: Option<u16>,
    /// How registries are reached: <DIR>/<registry>/hosts.toml, as containerd has it [default: /etc/kobune/certs.d]
    #[arg(long, value_name = "DIR")]
    pub image_hosts_dir: Option<PathBuf>,
    /// Credentials of registries: a docker config.json [default: /etc/kobune/registry-auth.json, if it exists]
    #[arg(long, value_name = "PATH")]
    pub image_auth_file: Option<PathBuf>,
    /// Images that are pulled at a time [default: 4]
    #[arg(long, value_name = "N")]
    pub max_parallel_image_pulls: Option<u32>,
    /// Percent of the disk in use at which unused images that were pulled begin to be removed [default: 85]
    #[arg(long, value_name = "PERCENT")]
    pub image_gc_high_threshold: Option<u8>,
    /// Percent of the disk in use down to which they are removed [default: 80]
    #[arg(long, value_name = "PERCENT")]
    pub image_gc_low_threshold: Option<u8>,
    /// Seconds that an unused image is kept at least [default: 120]
    #[arg(long, value_name = "SECONDS")]
    pub image_minimum_gc_age: Option<u32>,
    /// Where the API server keeps objects, if not in the data directory: etcd://HOST:PORT[,HOST:PORT…][/PREFIX].
    /// Several servers may share it; one of them decides [default: none]
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Certificate authority of etcd, PEM; with it etcd is spoken to by TLS
    #[arg(long, value_name = "PATH")]
    pub etcd_cafile: Option<PathBuf>,
    /// Our certificate to etcd, PEM
    #[arg(long, value_name = "PATH")]
    pub etcd_certfile: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "PATH")]
    pub etcd_keyfile: Option<PathBuf>,
    /// What is logged to standard error: error, warn, info, debug, trace, or directives as in
    /// RUST_LOG [default: info, with --demo warn]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// What the defaults need to know of the machine.
#[derive(Debug, Clone)]
pub struct Facts {
    pub hostname: String,
    pub current_dir: PathBuf,
}

/// Settings, complete and consistent.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    pub log_dir: PathBuf,
    /// Relative to the cgroup v2 mount.
    pub cgroup_root: PathBuf,
    pub kubeconfig: PathBuf,
    pub node_name: String,
    /// Without it the node's address is found when the node starts.
    pub node_ip: Option<Ipv4Addr>,
    pub cluster_cidr: Ipv4Net,
    pub service_cidr: Ipv4Net,
    /// Without it Services of type LoadBalancer have no address.
    pub load_balancer_pool: Option<Pool>,
    pub secure_port: u16,
    pub bind_address: IpAddr,
    pub kubelet_port: u16,
    pub images: ImageSettings,
    /// Without it objects are in the data directory.
    pub etcd: Option<Etcd>,
    /// Without it: info, and warn where a person watches the demo.
    pub log_level: Option<String>,
}

/// How images come and go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSettings {
    pub hosts_dir: PathBuf,
    pub auth_file: PathBuf,
    pub max_parallel_pulls: u32,
    /// Percent of the disk in use.
    pub gc_high: u8,
    pub gc_low: u8,
    pub gc_minimum_age: Duration,
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self {
            hosts_dir: "/etc/kobune/certs.d".into(),
            auth_file: "/etc/kobune/registry-auth.json".into(),
            max_parallel_pulls: 4,
            gc_high: 85,
            gc_low: 80,
            gc_minimum_age: Duration::from_secs(120),
        }
    }
}

/// Why settings make no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("read configuration {path:?}: {message}")]
    File { path: PathBuf, message: String },
    #[error("check {name}: {value:?} {reason}")]
    Value { name: &'static str, value: String, reason: &'static str },
    #[error("check cluster-cidr: {cluster} overlaps service-cidr {service}")]
    Overlap { cluster: Ipv4Net, service: Ipv4Net },
    #[error("check kubelet-port: {0} is the API server's port too")]
    Port(u16),
}

/// Read the text of a configuration file; `path` is for the message.
pub fn parse_file(path: &Path, text: &str) -> Result<Settings, ConfigError> {
    let only_comments = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(only_comments) {
        return Ok(Settings::default());
    }
    serde_saphyr::from_str(text).map_err(|e| {
        // The lines after the first are a drawing of the place.
        let text = e.to_string();
        let line = text.lines().next().unwrap_or_default();
        let message = line.strip_prefix("error: ").unwrap_or(line).to_owned();
        ConfigError::File { path: path.to_owned(), message }
    })
}

impl Settings {
    /// These settings, and those of `other` where these are silent.
    pub fn or(self, other: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(other.data_dir),
            run_dir: self.run_dir.or(other.run_dir),
            log_dir: self.log_dir.or(other.log_dir),
            cgroup_root: self.cgroup_root.or(other.cgroup_root),
            write_kubeconfig: self.write_kubeconfig.or(other.write_kubeconfig),
            node_name: self.node_name.or(other.node_name),
            node_ip: self.node_ip.or(other.node_ip),
            cluster_cidr: self.cluster_cidr.or(other.cluster_cidr),
            service_cidr: self.service_cidr.or(other.service_cidr),
            load_balancer_pool: self.load_balancer_pool.or(other.load_balancer_pool),
            secure_port: self.secure_port.or(other.secure_port),
            bind_address: self.bind_address.or(other.bind_address),
            kubelet_port: self.kubelet_port.or(other.kubelet_port),
            image_hosts_dir: self.image_hosts_dir.or(other.image_hosts_dir),
            image_auth_file: self.image_auth_file.or(other.image_auth_file),
            max_parallel_image_pulls: self
                .max_parallel_image_pulls
                .or(other.max_parallel_image_pulls),
            image_gc_high_threshold: self.image_gc_high_threshold.or(other.image_gc_high_threshold),
            image_gc_low_threshold: self.image_gc_low_threshold.or(other.image_gc_low_threshold),
            image_minimum_gc_age: self.image_minimum_gc_age.or(other.image_minimum_gc_age),
            store: self.store.or(other.store),
            etcd_cafile: self.etcd_cafile.or(other.etcd_cafile),
            etcd_certfile: self.etcd_certfile.or(other.etcd_certfile),
            etcd_keyfile: self.etcd_keyfile.or(other.etcd_keyfile),
            log_level: self.log_level.or(other.log_level),
        }
    }

    /// Fill in the defaults and check everything.
    pub fn check(self, facts: &Facts) -> Result<Config, ConfigError> {
        let etcd = self.etcd(facts)?;
        let absolute = |given: Option<PathBuf>, default: &str| {
            facts.current_dir.join(given.unwrap_or_else(|| default.into()))
        };
        let images = self.images(&facts.current_dir)?;
        let config = Config {
            images,
            data_dir: absolute(self.data_dir, DEFAULT_DATA_DIR),
            run_dir: absolute(self.run_dir, "/run/kobune"),
            log_dir: absolute(self.log_dir, "/var/log/pods"),
            cgroup_root: relative(self.cgroup_root.unwrap_or_else(|| "kobune".into()))?,
            kubeconfig: absolute(self.write_kubeconfig, DEFAULT_KUBECONFIG),
            node_name: node_name(self.node_name, &facts.hostname)?,
            node_ip: self.node_ip,
            cluster_cidr: self.cluster_cidr.unwrap_or(CLUSTER_CIDR).trunc(),
            service_cidr: self.service_cidr.unwrap_or(SERVICE_CIDR).trunc(),
            load_balancer_pool: self.load_balancer_pool.map(pool).transpose()?,
            secure_port: port("secure-port", self.secure_port.unwrap_or(6443))?,
            bind_address: self.bind_address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            kubelet_port: port("kubelet-port", self.kubelet_port.unwrap_or(10250))?,
            etcd,
            log_level: self.log_level,
        };
        config.consistent()
    }
}

impl Settings {
    fn images(&self, current_dir: &Path) -> Result<ImageSettings, ConfigError> {
        let default = ImageSettings::default();
        let absolute = |given: &Option<PathBuf>, default: PathBuf| {
            current_dir.join(given.clone().unwrap_or(default))
        };
        let (high, low) = (self.image_gc_high_threshold, self.image_gc_low_threshold);
        let age = self.image_minimum_gc_age.map(|seconds| Duration::from_secs(seconds.into()));
        let images = ImageSettings {
            hosts_dir: absolute(&self.image_hosts_dir, default.hosts_dir),
            auth_file: absolute(&self.image_auth_file, default.auth_file),
            max_parallel_pulls: self.max_parallel_image_pulls.unwrap_or(default.max_parallel_pulls),
            gc_high: high.unwrap_or(default.gc_high),
            gc_low: low.unwrap_or(default.gc_low.min(high.unwrap_or(default.gc_high))),
            gc_minimum_age: age.unwrap_or(default.gc_minimum_age),
        };
        if images.max_parallel_pulls == 0 {
            return Err(value("max-parallel-image-pulls", 0, "leaves no pull at all"));
        }
        if images.gc_high > 100 {
            return Err(value(
                "image-gc-high-threshold",
                images.gc_high,
                "is more than 100 percent",
            ));
        }
        if images.gc_low > images.gc_high {
            let reason = "is above image-gc-high-threshold";
            return Err(value("image-gc-low-threshold", images.gc_low, reason));
        }
        Ok(images)
    }

    fn etcd(&self, facts: &Facts) -> Result<Option<Etcd>, ConfigError> {
        let absolute = |path: &PathBuf| facts.current_dir.join(path);
        let ca = self.etcd_cafile.as_ref().map(absolute);
        let files = [&self.etcd_cafile, &self.etcd_certfile, &self.etcd_keyfile];
        let Some(url) = &self.store else {
            return match files.into_iter().flatten().next() {
                None => Ok(None),
                Some(path) => {
                    Err(value("etcd-*file", path.display(), "is of no use without store"))
                }
            };
        };
        let client = match (&self.etcd_certfile, &self.etcd_keyfile) {
            (Some(certificate), Some(key)) => Some((absolute(certificate), absolute(key))),
            (None, None) => None,
            _ => {
                return Err(value(
                    "etcd-certfile",
                    url,
                    "needs etcd-keyfile, and the other way round",
                ));
            }
        };
        let tls = match (ca, client) {
            (Some(ca), client) => Some(Tls { ca, client }),
            (None, None) => None,
            (None, Some(_)) => return Err(value("etcd-certfile", url, "needs etcd-cafile")),
        };
        match Etcd::parse(url, tls) {
            Ok(etcd) => Ok(Some(etcd)),
            Err(_) => Err(value("store", url, "is not etcd://HOST:PORT[,HOST:PORT…][/PREFIX]")),
        }
    }
}

const CLUSTER_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16);
const SERVICE_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16);

impl Config {
    /// Settings that make this configuration on any machine.
    pub fn settings(&self) -> Settings {
        let tls = self.etcd.as_ref().and_then(|etcd| etcd.tls.as_ref());
        let client = tls.and_then(|tls| tls.client.as_ref());
        Settings {
            data_dir: Some(self.data_dir.clone()),
            run_dir: Some(self.run_dir.clone()),
            log_dir: Some(self.log_dir.clone()),
            cgroup_root: Some(self.cgroup_root.clone()),
            write_kubeconfig: Some(self.kubeconfig.clone()),
            node_name: Some(self.node_name.clone()),
            node_ip: self.node_ip,
            cluster_cidr: Some(self.cluster_cidr),
            service_cidr: Some(self.service_cidr),
            load_balancer_pool: self.load_balancer_pool.as_ref().map(ToString::to_string),
            secure_port: Some(self.secure_port),
            bind_address: Some(self.bind_address),
            kubelet_port: Some(self.kubelet_port),
            image_hosts_dir: Some(self.images.hosts_dir.clone()),
            image_auth_file: Some(self.images.auth_file.clone()),
            max_parallel_image_pulls: Some(self.images.max_parallel_pulls),
            image_gc_high_threshold: Some(self.images.gc_high),
            image_gc_low_threshold: Some(self.images.gc_low),
            image_minimum_gc_age: u32::try_from(self.images.gc_minimum_age.as_secs()).ok(),
            store: self.etcd.as_ref().map(Etcd::url),
            etcd_cafile: tls.map(|tls| tls.ca.clone()),
            etcd_certfile: client.map(|(certificate, _)| certificate.clone()),
            etcd_keyfile: client.map(|(_, key)| key.clone()),
            log_level: self.log_level.clone(),
        }
    }

    fn consistent(self) -> Result<Self, ConfigError> {
        let (cluster, service) = (self.cluster_cidr, self.service_cidr);
        if cluster.prefix_len() > NODE_MASK {
            let reason = "has no room for one node's /24";
            return Err(value("cluster-cidr", cluster, reason));
        }
        if !(12..=28).contains(&service.prefix_len()) {
            return Err(value("service-cidr", service, "is not between /12 and /28"));
        }
        if cluster.contains(&service) || service.contains(&cluster) {
            return Err(ConfigError::Overlap { cluster, service });
        }
        if self.kubelet_port == self.secure_port {
            return Err(ConfigError::Port(self.kubelet_port));
        }
        Ok(self)
    }
}

fn value(name: &'static str, value: impl ToString, reason: &'static str) -> ConfigError {
    ConfigError::Value { name, value: value.to_string(), reason }
}

fn pool(text: String) -> Result<Pool, ConfigError> {
    let reason = "is not a list of IPv4 ranges like 192.0.2.240/28 or 192.0.2.240-192.0.2.250";
    text.parse().map_err(|_| value("load-balancer-pool", text, reason))
}

fn port(name: &'static str, number: u16) -> Result<u16, ConfigError> {
    if number == 0 { Err(value(name, number, "is not a port")) } else { Ok(number) }
}

fn relative(path: PathBuf) -> Result<PathBuf, ConfigError> {
    let stripped = path.strip_prefix("/").unwrap_or(&path);
    let plain = stripped.components().all(|c| matches!(c, Component::Normal(_)));
    if plain && stripped.components().next().is_some() {
        return Ok(stripped.to_owned());
    }
    Err(value("cgroup-root", path.display(), "is not a plain path below the cgroup mount"))
}

fn node_name(given: Option<String>, hostname: &str) -> Result<String, ConfigError> {
    // Host names may have capitals, object names may not.
    let name = given.unwrap_or_else(|| hostname.to_ascii_lowercase());
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(name);
    }
    Err(value("node-name", name, "is not lower case letters, digits, '-' and '.' (RFC 1123)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts { hostname: "Boat-1".into(), current_dir: "/home/me".into() }
    }

    fn file(text: &str) -> Result<Settings, ConfigError> {
        parse_file(Path::new("/etc/x.yaml"), text)
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let config = Settings::default().check(&facts()).unwrap();
        assert_eq!(config.data_dir, Path::new("/var/lib/kobune"));
        assert_eq!(config.run_dir, Path::new("/run/kobune"));
        assert_eq!(config.kubeconfig, Path::new("/etc/kobune/kubeconfig.yaml"));
        assert_eq!(config.cluster_cidr.to_string(), "10.244.0.0/16");
        assert_eq!(config.service_cidr.to_string(), "10.96.0.0/16");
        assert_eq!((config.secure_port, config.kubelet_port), (6443, 10250));
        assert_eq!(config.node_name, "boat-1");
        let elsewhere = Facts { hostname: "other".into(), current_dir: "/tmp".into() };
        assert_eq!(config.settings().check(&elsewhere).unwrap(), config);
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let flags = Settings { secure_port: Some(1), ..Settings::default() };
        let file = file("secure-port: 2\nnode-name: n\ncluster-cidr: 10.1.2.3/16\n").unwrap();
        let config = flags.or(file).check(&facts()).unwrap();
        assert_eq!((config.secure_port, config.node_name.as_str()), (1, "n"));
        assert_eq!(config.cluster_cidr.to_string(), "10.1.0.0/16");
    }

    #[test]
    fn every_setting_of_the_file_is_a_flag_and_the_other_way_round() {
        let values = [
            ("data-dir", "/d"),
            ("run-dir", "/r"),
            ("log-dir", "/l"),
            ("cgroup-root", "c"),
            ("write-kubeconfig", "/k"),
            ("node-name", "n"),
            ("node-ip", "192.0.2.1"),
            ("cluster-cidr", "10.1.0.0/16"),
            ("service-cidr", "10.2.0.0/16"),
            ("load-balancer-pool", "192.0.2.240/28"),
            ("secure-port", "1"),
            ("bind-address", "::1"),
            ("kubelet-port", "2"),
            ("log-level", "warn"),
            ("image-hosts-dir", "/h"),
            ("image-auth-file", "/a"),
            ("max-parallel-image-pulls", "3"),
            ("image-gc-high-threshold", "90"),
            ("image-gc-low-threshold", "70"),
            ("image-minimum-gc-age", "60"),
            ("store", "etcd://192.0.2.9:2379"),
            ("etcd-cafile", "/ca"),
            ("etcd-certfile", "/crt"),
            ("etcd-keyfile", "/key"),
        ];
        let text: String = values.iter().map(|(k, v)| format!("{k}: {v:?}\n")).collect();
        let text = ["1", "2", "3", "90", "70", "60"]
            .iter()
            .fold(text, |text, number| text.replace(&format!("{number:?}"), number));
        let flags = values.iter().flat_map(|(k, v)| [format!("--{k}"), (*v).to_owned()]);
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            settings: Settings,
        }
        let parsed: Only = clap::Parser::parse_from(["x".to_owned()].into_iter().chain(flags));
        assert_eq!(file(&text).unwrap(), parsed.settings);
        let command = <Only as clap::CommandFactory>::command();
        assert_eq!(command.get_arguments().count(), values.len());
    }

    #[test]
    fn unknown_names_and_wrong_types_are_refused_by_name() {
        let error = file("data-dri: /x\n").unwrap_err().to_string();
        assert!(error.contains("data-dri") && !error.contains('\n'), "{error}");
        assert!(file("secure-port: many\n").is_err());
        assert_eq!(file("# nothing\n\n").unwrap(), Settings::default());
    }

    #[test]
    fn relative_paths_are_made_absolute() {
        let settings = Settings { data_dir: Some("d".into()), ..Settings::default() };
        assert_eq!(settings.check(&facts()).unwrap().data_dir, Path::new("/home/me/d"));
    }

    #[test]
    fn nonsense_is_refused() {
        let bad = [
            "node-name: Two Words",
            "cluster-cidr: 10.0.0.0/25",
            "service-cidr: 10.96.0.0/30",
            "load-balancer-pool: 192.0.2.9-192.0.2.1",
            "cluster-cidr: 10.96.0.0/12",
            "secure-port: 0",
            "kubelet-port: 6443",
            "cgroup-root: ../up",
            "cgroup-root: /",
            "max-parallel-image-pulls: 0",
            "image-gc-high-threshold: 101",
            "image-gc-low-threshold: 86",
        ];
        for text in bad {
            let settings = file(text).unwrap();
            let error = settings.check(&facts()).unwrap_err().to_string();
            let name = text.split(':').next().unwrap();
            assert!(error.contains(name), "{text}: {error}");
        }
    }
}
