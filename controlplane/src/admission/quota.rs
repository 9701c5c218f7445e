//! ResourceQuota: what a Namespace uses of what it may. Counted from the objects themselves, so that a status which
//! lags behind lets nothing through.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaSpec};
use serde_json::Value;

use super::{World, limits};
use crate::kinds::{Kind, Quantity, find_resource};
use crate::object::Resource;

pub(crate) type Amounts = BTreeMap<String, Quantity>;

const QUOTAS: &str = "resourcequotas";

/// Names of compute resources that are short for a request.
fn canonical(name: &str) -> &str {
    match name {
        "cpu" | "requests.cpu" => "cpu",
        "memory" | "requests.memory" => "memory",
        "ephemeral-storage" | "requests.ephemeral-storage" => "ephemeral-storage",
        other => other,
    }
}

/// Whether something of this kind is counted in the Namespace: then nobody else may write between the count and
/// the commit.
pub(crate) fn counts(world: World<'_>, kind: &Kind, namespace: &str) -> bool {
    kind.namespaced
        && world.typed_list::<ResourceQuota>(QUOTAS, Some(namespace)).iter().any(|quota| {
            let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
            hard.into_iter().flatten().any(|(name, _)| resource_of(name, kind))
        })
}

/// Whether the quota's `name` is about objects of this kind.
fn resource_of(name: &str, kind: &Kind) -> bool {
    if let Some(resource) = name.strip_prefix("count/") {
        return resource == kind.resource;
    }
    match kind.resource {
        "pods" => name == "pods" || compute(name),
        "services" => name == "services" || name.starts_with("services."),
        "persistentvolumeclaims" => {
            name == "persistentvolumeclaims"
                || name == "requests.storage"
                || name.contains(".storageclass.storage.k8s.io/")
        }
        resource => name == resource,
    }
}

fn compute(name: &str) -> bool {
    let bare = name.strip_prefix("requests.").or(name.strip_prefix("limits.")).unwrap_or(name);
    matches!(bare, "cpu" | "memory" | "ephemeral-storage")
        || bare.starts_with("hugepages-")
        || (bare != name && bare.contains('/') && !bare.contains("storageclass"))
}

/// Why the new object (or the new version of `old`) does not fit; None when it does.
pub(crate) fn refusal(
    world: World<'_>,
    kind: &Kind,
    namespace: &str,
    value: &Value,
    old: Option<&Value>,
) -> Option<String> {
    for quota in world.typed_list::<ResourceQuota>(QUOTAS, Some(namespace)) {
        let (Some(spec), Some(name)) = (&quota.spec, &quota.metadata.name) else { continue };
        if !in_scope(spec, kind.resource, value) {
            continue;
        }
        if let Some(missing) = unspecified(spec, kind, value) {
            return Some(format!("failed quota: {name}: must specify {missing}"));
        }
        let mut more = usage(kind.resource, value);
        if let Some(old) = old.filter(|old| in_scope(spec, kind.resource, old)) {
            let before = usage(kind.resource, old);
            more.retain(|key, amount| before.get(key).is_none_or(|b| b < amount));
            for (key, amount) in &mut more {
                *amount = *amount - before.get(key).copied().unwrap_or(Quantity::ZERO);
            }
        }
        let used = used(world, namespace, spec);
        let mut over: Vec<[String; 3]> = Vec::new();
        for (key, hard) in spec.hard.iter().flatten() {
            let Ok(limit) = Quantity::parse(&hard.0) else { continue };
            let Some(asked) = more.get(canonical(key)).filter(|asked| !asked.is_zero()) else {
                continue;
            };
            let have = used.get(key).copied().unwrap_or(Quantity::ZERO);
            if have + *asked > limit {
                over.push([
                    format!("{key}={asked}"),
                    format!("{key}={have}"),
                    format!("{key}={}", hard.0),
                ]);
            }
        }
        if !over.is_empty() {
            let list = |at: usize| over.iter().map(|o| o[at].clone()).collect::<Vec<_>>().join(",");
            return Some(format!(
                "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
                list(0),
                list(1),
                list(2)
            ));
        }
    }
    None
}

/// Compute amounts that a quota limits must be said by every container.
fn unspecified(spec: &ResourceQuotaSpec, kind: &Kind, value: &Value) -> Option<String> {
    if kind.resource != "pods" {
        return None;
    }
    let mut missing = Vec::new();
    for key in spec.hard.iter().flatten().map(|(key, _)| key) {
        let (field, name) = match canonical(key) {
            name @ ("cpu" | "memory") => ("requests", name),
            "limits.cpu" => ("limits", "cpu"),
            "limits.memory" => ("limits", "memory"),
            _ => continue,
        };
        let silent = |container: &&Value| container["resources"][field][name].is_null();
        let lists = ["containers", "initContainers"];
        let containers =
            lists.iter().flat_map(|l| value["spec"][l].as_array().into_iter().flatten());
        let names: Vec<&str> =
            containers.filter(silent).filter_map(|container| container["name"].as_str()).collect();
        if !names.is_empty() {
            missing.push(format!("{key} for: {}", names.join(",")));
        }
    }
    (!missing.is_empty()).then(|| missing.join("; "))
}

/// What the Namespace uses of what the quota limits.
pub(crate) fn used(world: World<'_>, namespace: &str, spec: &ResourceQuotaSpec) -> Amounts {
    let hard: Vec<&String> = spec.hard.iter().flatten().map(|(key, _)| key).collect();
    let mut sum = Amounts::new();
    for resource in resources(&hard) {
        for object in world.list(resource, Some(namespace)) {
            let value = object.value();
            if !in_scope(spec, resource, &value) {
                continue;
            }
            for (key, amount) in usage(resource, &value) {
                let old = sum.get(&key).copied().unwrap_or(Quantity::ZERO);
                sum.insert(key, old + amount);
            }
        }
    }
    let of = |key: &&String| sum.get(canonical(key)).copied().unwrap_or(Quantity::ZERO);
    hard.iter().map(|key| ((*key).clone(), of(key))).collect()
}

/// The resources that have to be counted for these names.
fn resources(hard: &[&String]) -> Vec<Resource> {
    let mut found: Vec<Resource> = Vec::new();
    for name in hard {
        let known = match name.strip_prefix("count/") {
            Some(resource) => find_resource(resource),
            None if compute(name) => find_resource("pods"),
            None if name.starts_with("services") => find_resource("services"),
            None if name.contains("storage") => find_resource("persistentvolumeclaims"),
            None => find_resource(name),
        };
        if let Some(kind) = known.filter(|kind| kind.namespaced && !found.contains(&kind.resource))
        {
            found.push(kind.resource);
        }
    }
    found
}

/// What one object uses, by canonical names.
fn usage(resource: &str, value: &Value) -> Amounts {
    let one = Quantity::parse("1").unwrap_or(Quantity::ZERO);
    let mut sum = Amounts::from([(format!("count/{resource}"), one)]);
    let mut add = |key: &str, amount: Quantity| {
        sum.insert(key.to_owned(), amount);
    };
    match resource {
        "pods" if matches!(value["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) => {}
        "pods" => {
            add("pods", one);
            for (name, amount) in limits::total(&value["spec"], "requests") {
                match name.as_str() {
                    "cpu" | "memory" | "ephemeral-storage" => add(&name, amount),
                    name => add(&format!("requests.{name}"), amount),
                }
            }
            for (name, amount) in limits::total(&value["spec"], "limits") {
                add(&format!("limits.{name}"), amount);
            }
        }
        "services" => {
            add("services", one);
            let kind = value["spec"]["type"].as_str().unwrap_or("ClusterIP");
            let ports = value["spec"]["ports"].as_array().map_or(0, Vec::len);
            let ports = Quantity::parse(&ports.to_string()).unwrap_or(one);
            if kind == "LoadBalancer" {
                add("services.loadbalancers", one);
            }
            if matches!(kind, "LoadBalancer" | "NodePort") {
                add("services.nodeports", ports);
            }
        }
        "persistentvolumeclaims" => {
            add("persistentvolumeclaims", one);
            let storage = value["spec"]["resources"]["requests"]["storage"].as_str();
            let storage =
                storage.and_then(|text| Quantity::parse(text).ok()).unwrap_or(Quantity::ZERO);
            add("requests.storage", storage);
            if let Some(class) = value["spec"]["storageClassName"].as_str() {
                let prefix = format!("{class}.storageclass.storage.k8s.io");
                add(&format!("{prefix}/requests.storage"), storage);
                add(&format!("{prefix}/persistentvolumeclaims"), one);
            }
        }
        other => add(other, one),
    }
    sum
}

/// Scopes narrow a quota to some Pods.
fn in_scope(spec: &ResourceQuotaSpec, resource: &str, value: &Value) -> bool {
    let selector = spec.scope_selector.as_ref().and_then(|s| s.match_expressions.as_ref());
    let scoped = spec.scopes.as_ref().is_some_and(|s| !s.is_empty())
        || selector.is_some_and(|needs| !needs.is_empty());
    if resource != "pods" {
        return !scoped;
    }
    spec.scopes.iter().flatten().all(|scope| has(scope, value))
        && selector.into_iter().flatten().all(|need| {
            let class = value["spec"]["priorityClassName"].as_str().unwrap_or_default();
            let listed = need.values.iter().flatten().any(|v| v == class);
            match (need.scope_name.as_str(), need.operator.as_str()) {
                ("PriorityClass", "In") => listed,
                ("PriorityClass", "NotIn") => !listed,
                ("PriorityClass", "Exists") => !class.is_empty(),
                ("PriorityClass", _) => class.is_empty(),
                (scope, "DoesNotExist") => !has(scope, value),
                (scope, _) => has(scope, value),
            }
        })
}

fn has(scope: &str, pod: &Value) -> bool {
    let best_effort = || {
        let lists = ["containers", "initContainers"];
        let mut all = lists.iter().flat_map(|l| pod["spec"][l].as_array().into_iter().flatten());
        all.all(|container| {
            ["requests", "limits"].iter().all(|field| {
                let amounts = &container["resources"][field];
                amounts["cpu"].is_null() && amounts["memory"].is_null()
            })
        })
    };
    let terminating = || pod["spec"]["activeDeadlineSeconds"].as_i64().is_some();
    match scope {
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "Terminating" => terminating(),
        "NotTerminating" => !terminating(),
        "PriorityClass" => pod["spec"]["priorityClassName"].as_str().is_some_and(|n| !n.is_empty()),
        "CrossNamespacePodAffinity" => {
            let affinity = pod["spec"]["affinity"].to_string();
            affinity.contains("\"namespaces\"") || affinity.contains("\"namespaceSelector\"")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::testing;
    use crate::kinds::find;

    fn quota(hard: Value, scopes: Value) -> (Resource, Value) {
        let value = json!({"metadata": {"name": "q", "namespace": "a"}, "spec": {"hard": hard, "scopes": scopes}});
        (QUOTAS, value)
    }

    fn pod(name: &str, cpu: Option<&str>) -> Value {
        let resources = cpu.map_or(json!({}), |cpu| json!({"requests": {"cpu": cpu}}));
        json!({"metadata": {"name": name, "namespace": "a"},
            "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    fn refused(world: &testing::World, value: &Value, old: Option<&Value>) -> Option<String> {
        let kind = find("", "v1", "pods").unwrap();
        assert!(counts(world, kind, "a"));
        refusal(world, kind, "a", value, old)
    }

    #[test]
    fn the_last_that_fits_fits() {
        let hard = quota(json!({"requests.cpu": "1", "pods": "3"}), json!([]));
        let done = {
            let mut done = pod("done", Some("5"));
            done["status"] = json!({"phase": "Succeeded"});
            done
        };
        let world = testing::World::of([hard, ("pods", pod("x", Some("600m"))), ("pods", done)]);
        assert_eq!(refused(&world, &pod("y", Some("400m")), None), None);
        let text = refused(&world, &pod("y", Some("500m")), None).unwrap();
        assert_eq!(
            text,
            "exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1"
        );
        let text = refused(&world, &pod("y", None), None).unwrap();
        assert_eq!(text, "failed quota: q: must specify requests.cpu for: c");
        assert_eq!(refused(&world, &pod("x", Some("1")), Some(&pod("x", Some("600m")))), None);
    }

    #[test]
    fn scopes_choose_pods() {
        let hard = quota(json!({"pods": "0"}), json!(["BestEffort"]));
        let world = testing::World::of([hard]);
        assert!(refused(&world, &pod("x", None), None).is_some());
        assert_eq!(refused(&world, &pod("x", Some("1")), None), None);
    }

    #[test]
    fn everything_can_be_counted() {
        let hard = quota(
            json!({"count/deployments.apps": "1", "services.nodeports": "1", "secrets": "0"}),
            json!([]),
        );
        let deployment = json!({"metadata": {"name": "d", "namespace": "a"}});
        let world = testing::World::of([hard, ("deployments.apps", deployment.clone())]);
        let of = |group, plural, value: &Value| {
            let kind = find(group, "v1", plural).unwrap();
            assert!(counts(&world, kind, "a") && !counts(&world, kind, "b"));
            refusal(&world, kind, "a", value, None)
        };
        assert!(
            of("apps", "deployments", &deployment).unwrap().contains("count/deployments.apps=1")
        );
        assert!(of("", "secrets", &deployment).is_some());
        let service = json!({"spec": {"type": "NodePort", "ports": [{}, {}]}});
        assert!(of("", "services", &service).is_some());
        assert!(of("", "services", &json!({"spec": {}})).is_none());
    }
}
