//! A container's environment: image, Services, envFrom, env, and `$(VAR)` references. Pure.
//!
//! Later definitions win; a reference sees what is defined before it, and stays as written if there is
//! no such variable. `$$(VAR)` is the way to write `$(VAR)` literally.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvFromSource, EnvVar, EnvVarSource, Secret, Service,
};

use super::ConfigError;
use super::field::{self, PodFacts};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// ConfigMaps and Secrets of the Pod's namespace, by name; None for one that does not exist.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub config_maps: BTreeMap<String, Option<ConfigMap>>,
    pub secrets: BTreeMap<String, Option<Secret>>,
    /// Of the Pod's service account.
    pub tokens: BTreeMap<TokenWish, String>,
}

/// A token as a projected volume asks for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenWish {
    /// Empty for the API itself.
    pub audience: String,
    pub seconds: i64,
}

/// Which ConfigMaps and Secrets a container's environment refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    pub config_maps: Vec<String>,
    pub secrets: Vec<String>,
}

pub fn needs(container: &Container) -> Needs {
    let mut needs = Needs::default();
    for from in container.env_from.iter().flatten() {
        needs.config_maps.extend(from.config_map_ref.iter().map(|source| source.name.clone()));
        needs.secrets.extend(from.secret_ref.iter().map(|source| source.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
        needs.config_maps.extend(source.config_map_key_ref.iter().map(|key| key.name.clone()));
        needs.secrets.extend(source.secret_key_ref.iter().map(|key| key.name.clone()));
    }
    needs
}

/// The variables in the making: order of definition, last value wins.
#[derive(Default)]
struct Variables(Vec<(String, String)>);

impl Variables {
    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(each, _)| each == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.into(), value)),
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(each, _)| each == name).map(|(_, value)| value.clone())
    }
}

/// The whole environment of a container. `services` are those of the Pod's namespace, and
/// `default/kubernetes`.
pub fn build(
    container: &Container,
    image_env: &[String],
    facts: &PodFacts<'_>,
    sources: &Sources,
    services: &[Service],
) -> Result<Vec<(String, String)>, ConfigError> {
    // What the Pod defines is kept apart from the image's: references see the former only.
    let mut own = Variables::default();
    for (name, value) in service_variables(facts, services) {
        own.set(&name, value);
    }
    for from in container.env_from.iter().flatten() {
        add_all(&mut own, from, sources)?;
    }
    for var in container.env.iter().flatten() {
        if let Some(value) = value_of(var, container, facts, sources, &own)? {
            own.set(&var.name, value);
        }
    }
    let mut all = Variables::default();
    all.set("PATH", DEFAULT_PATH.into());
    all.set("HOSTNAME", facts.hostname.clone());
    for pair in image_env {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        all.set(name, value.into());
    }
    for (name, value) in own.0 {
        all.set(&name, value);
    }
    Ok(all.0)
}

fn add_all(
    own: &mut Variables,
    from: &EnvFromSource,
    sources: &Sources,
) -> Result<(), ConfigError> {
    let prefix = from.prefix.as_deref().unwrap_or_default();
    let mut add = |key: &str, value: String| {
        let name = format!("{prefix}{key}");
        if is_variable_name(&name) {
            own.set(&name, value);
        }
    };
    if let Some(source) = &from.config_map_ref {
        let map = present(&sources.config_maps, &source.name, source.optional, "configmap")?;
        for (key, value) in map.iter().flat_map(|map| map.data.iter().flatten()) {
            add(key, value.clone());
        }
    }
    if let Some(source) = &from.secret_ref {
        let secret = present(&sources.secrets, &source.name, source.optional, "secret")?;
        for (key, value) in secret.iter().flat_map(|secret| secret.data.iter().flatten()) {
            add(key, text(&value.0));
        }
    }
    Ok(())
}

fn value_of(
    var: &EnvVar,
    container: &Container,
    facts: &PodFacts<'_>,
    sources: &Sources,
    own: &Variables,
) -> Result<Option<String>, ConfigError> {
    match &var.value_from {
        None => Ok(Some(expand(var.value.as_deref().unwrap_or_default(), |name| own.get(name)))),
        Some(source) => value_from(source, container, facts, sources),
    }
}

fn value_from(
    source: &EnvVarSource,
    container: &Container,
    facts: &PodFacts<'_>,
    sources: &Sources,
) -> Result<Option<String>, ConfigError> {
    if let Some(field) = &source.field_ref {
        return field::value(&field.field_path, facts).map(Some).map_err(ConfigError::Config);
    }
    if let Some(resource) = &source.resource_field_ref {
        return field::resource(resource, container, facts).map(Some).map_err(ConfigError::Config);
    }
    if let Some(key) = &source.config_map_key_ref {
        let map = present(&sources.config_maps, &key.name, key.optional, "configmap")?;
        let value = map.and_then(|map| map.data.as_ref()?.get(&key.key).cloned());
        return required(value, key.optional, &key.key, "ConfigMap", &key.name, facts);
    }
    if let Some(key) = &source.secret_key_ref {
        let secret = present(&sources.secrets, &key.name, key.optional, "secret")?;
        let value = secret
            .and_then(|secret| secret.data.as_ref()?.get(&key.key).map(|value| text(&value.0)));
        return required(value, key.optional, &key.key, "Secret", &key.name, facts);
    }
    Ok(None)
}

fn present<'a, T>(
    map: &'a BTreeMap<String, Option<T>>,
    name: &str,
    optional: Option<bool>,
    what: &str,
) -> Result<Option<&'a T>, ConfigError> {
    match map.get(name).and_then(Option::as_ref) {
        None if !optional.unwrap_or(false) => {
            Err(ConfigError::Config(format!("{what} \"{name}\" not found")))
        }
        found => Ok(found),
    }
}

fn required(
    value: Option<String>,
    optional: Option<bool>,
    key: &str,
    kind: &str,
    name: &str,
    facts: &PodFacts<'_>,
) -> Result<Option<String>, ConfigError> {
    if value.is_none() && !optional.unwrap_or(false) {
        let namespace = facts.namespace();
        return Err(ConfigError::Config(format!(
            "couldn't find key {key} in {kind} {namespace}/{name}"
        )));
    }
    Ok(value)
}

/// `{NAME}_SERVICE_HOST` and friends, and those of Docker's links that upstream still makes.
fn service_variables(facts: &PodFacts<'_>, services: &[Service]) -> Vec<(String, String)> {
    let links = facts.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let mut out = Vec::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let is_api = namespace == "default" && name == "kubernetes";
        if is_api || (links && namespace == facts.namespace()) {
            add_service(&mut out, name, service);
        }
    }
    out
}

fn add_service(out: &mut Vec<(String, String)>, name: &str, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
        return;
    };
    let Some(first) = spec.ports.as_ref().and_then(|ports| ports.first()) else { return };
    let prefix = name.to_uppercase().replace('-', "_");
    let url = |port: i32, protocol: &str| {
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.into() };
        format!("{}://{host}:{port}", protocol.to_lowercase())
    };
    let protocol_of = |protocol: &Option<String>| protocol.clone().unwrap_or_else(|| "TCP".into());
    out.push((format!("{prefix}_SERVICE_HOST"), ip.into()));
    out.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
    out.push((format!("{prefix}_PORT"), url(first.port, &protocol_of(&first.protocol))));
    for port in spec.ports.iter().flatten() {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let port_name = port_name.to_uppercase().replace('-', "_");
            out.push((format!("{prefix}_SERVICE_PORT_{port_name}"), port.port.to_string()));
        }
        let protocol = protocol_of(&port.protocol);
        let stem = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        out.push((stem.clone(), url(port.port, &protocol)));
        out.push((format!("{stem}_PROTO"), protocol.to_lowercase()));
        out.push((format!("{stem}_PORT"), port.port.to_string()));
        out.push((format!("{stem}_ADDR"), ip.into()));
    }
}

/// Replaces `$(NAME)` by what `lookup` knows.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(escaped) = after.strip_prefix('$') {
            out.push('$');
            rest = escaped;
        } else if let Some(name) =
            after.strip_prefix('(').and_then(|inner| Some(&inner[..inner.find(')')?]))
        {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&rest[at..at + name.len() + 3]),
            }
            rest = &after[name.len() + 2..];
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
