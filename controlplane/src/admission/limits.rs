//! LimitRange: what containers get when they ask for nothing, and how little and how much they may ask for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde_json::{Map, Value};

use super::World;
use crate::kinds::{Kind, Quantity};

type Amounts = BTreeMap<String, Quantity>;

fn items(world: World<'_>, namespace: &str) -> Vec<LimitRangeItem> {
    let ranges = world.typed_list::<LimitRange>("limitranges", Some(namespace));
    ranges.iter().filter_map(|range| Some(range.spec.as_ref()?.limits.clone())).flatten().collect()
}

/// Containers get the defaults of the Namespace for what they do not say.
pub(super) fn complete(world: World<'_>, namespace: &str, pod: &mut Value) {
    for item in items(world, namespace).iter().filter(|item| item.type_ == "Container") {
        for list in ["containers", "initContainers"] {
            let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                give(container, "limits", item.default.as_ref());
                give(container, "requests", item.default_request.as_ref());
            }
        }
    }
}

/// A default request is not for a container that has a limit: that is its request (the kind's defaults saw to it).
fn give(container: &mut Value, field: &str, amounts: Option<&BTreeMap<String, Text>>) {
    let (Some(amounts), Some(container)) = (amounts, container.as_object_mut()) else { return };
    let resources = container.entry("resources").or_insert_with(|| Map::new().into());
    let Some(resources) = resources.as_object_mut() else { return };
    let known = resources.entry(field).or_insert_with(|| Map::new().into());
    let Some(known) = known.as_object_mut() else { return };
    for (name, amount) in amounts {
        known.entry(name.clone()).or_insert_with(|| amount.0.clone().into());
    }
}

/// Everything that breaks a bound.
pub(super) fn check(world: World<'_>, kind: &Kind, namespace: &str, value: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    match kind.resource {
        "pods" => {
            for item in items(world, namespace) {
                match item.type_.as_str() {
                    "Container" => {
                        for list in ["containers", "initContainers"] {
                            for container in value["spec"][list].as_array().into_iter().flatten() {
                                let resources = &container["resources"];
                                let (requests, limits) = (
                                    amounts(&resources["requests"]),
                                    amounts(&resources["limits"]),
                                );
                                bounds(&mut wrong, &item, &requests, &limits);
                            }
                        }
                    }
                    "Pod" => {
                        let of = |field| total(&value["spec"], field);
                        bounds(&mut wrong, &item, &of("requests"), &of("limits"));
                    }
                    _ => {}
                }
            }
        }
        "persistentvolumeclaims" => {
            let items = items(world, namespace);
            for item in items.iter().filter(|item| item.type_ == "PersistentVolumeClaim") {
                let requests = amounts(&value["spec"]["resources"]["requests"]);
                bounds(&mut wrong, item, &requests, &Amounts::new());
            }
        }
        _ => {}
    }
    wrong
}

fn amounts(value: &Value) -> Amounts {
    let entries = value.as_object().into_iter().flatten();
    let parse = |(name, amount): (&String, &Value)| {
        let text = amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
        Some((name.clone(), Quantity::parse(&text).ok()?))
    };
    entries.filter_map(parse).collect()
}

/// What a Pod asks for: its containers together, or an init container that asks for more on its own; sidecars run
/// beside both.
pub(crate) fn total(spec: &Value, field: &str) -> Amounts {
    let of = |container: &Value| amounts(&container["resources"][field]);
    let add = |sum: &mut Amounts, more: &Amounts| {
        for (name, amount) in more {
            let old = sum.get(name).copied().unwrap_or(Quantity::ZERO);
            sum.insert(name.clone(), old + *amount);
        }
    };
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec["initContainers"].as_array().into_iter().flatten() {
        let mut now = sidecars.clone();
        add(&mut now, &of(container));
        if container["restartPolicy"] == "Always" {
            sidecars.clone_from(&now);
        }
        raise(&mut peak, &now);
    }
    let mut sum = sidecars;
    for container in spec["containers"].as_array().into_iter().flatten() {
        add(&mut sum, &of(container));
    }
    raise(&mut sum, &peak);
    add(&mut sum, &amounts(&spec["overhead"]));
    sum
}

fn raise(sum: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        if sum.get(name).is_none_or(|known| known < amount) {
            sum.insert(name.clone(), *amount);
        }
    }
}

/// Worded as upstream words them.
fn bounds(wrong: &mut Vec<String>, item: &LimitRangeItem, requests: &Amounts, limits: &Amounts) {
    let what = &item.type_;
    let parse = |text: &Text| Quantity::parse(&text.0).ok();
    for (name, text) in item.min.iter().flatten() {
        let Some(min) = parse(text) else { continue };
        match requests.get(name) {
            None => wrong.push(format!(
                "minimum {name} usage per {what} is {}.  No request is specified",
                text.0
            )),
            Some(asked) if *asked < min => {
                wrong.push(format!(
                    "minimum {name} usage per {what} is {}, but request is {asked}",
                    text.0
                ));
            }
            Some(_) => {}
        }
        if let Some(limit) = limits.get(name).filter(|limit| **limit < min) {
            wrong.push(format!(
                "minimum {name} usage per {what} is {}, but limit is {limit}",
                text.0
            ));
        }
    }
    for (name, text) in item.max.iter().flatten() {
        let Some(max) = parse(text) else { continue };
        let bounded = if what == "PersistentVolumeClaim" { requests } else { limits };
        let word = if what == "PersistentVolumeClaim" { "request" } else { "limit" };
        match bounded.get(name) {
            None => wrong.push(format!(
                "maximum {name} usage per {what} is {}.  No {word} is specified",
                text.0
            )),
            Some(asked) if *asked > max => {
                wrong.push(format!(
                    "maximum {name} usage per {what} is {}, but {word} is {asked}",
                    text.0
                ));
            }
            Some(_) => {}
        }
        if let Some(asked) =
            requests.get(name).filter(|r| **r > max && what != "PersistentVolumeClaim")
        {
            wrong.push(format!(
                "maximum {name} usage per {what} is {}, but request is {asked}",
                text.0
            ));
        }
    }
    for (name, text) in item.max_limit_request_ratio.iter().flatten() {
        let (Some(ratio), Some(request), Some(limit)) =
            (parse(text), requests.get(name), limits.get(name))
        else {
            continue;
        };
        let real = limit.milli_value() as f64 / (request.milli_value().max(1)) as f64;
        if real > ratio.milli_value() as f64 / 1000.0 {
            wrong.push(format!(
                "{name} max limit to request ratio per {what} is {}, but provided ratio is {real:.6}",
                text.0
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::testing;
    use crate::kinds::find;

    fn world() -> testing::World {
        let range = json!({"metadata": {"name": "r", "namespace": "a"}, "spec": {"limits": [
            {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"},
                "max": {"cpu": "1"}, "min": {"cpu": "50m"}, "maxLimitRequestRatio": {"cpu": "5"}},
            {"type": "Pod", "max": {"memory": "1Gi"}},
        ]}});
        testing::World::of([("limitranges", range)])
    }

    fn pod(containers: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": containers}})
    }

    fn wrong(pod: &Value) -> Vec<String> {
        check(&world(), find("", "v1", "pods").unwrap(), "a", pod)
    }

    #[test]
    fn containers_get_what_they_do_not_say() {
        let memory = json!({"memory": "1Mi"});
        let mut pod = pod(json!([
            {"name": "plain", "resources": {"limits": memory}},
            {"name": "own", "resources": {"limits": {"cpu": "200m", "memory": "1Mi"}, "requests": {"cpu": "200m"}}},
        ]));
        complete(&world(), "a", &mut pod);
        let plain = &pod["spec"]["containers"][0]["resources"];
        assert_eq!(plain["limits"], json!({"cpu": "500m", "memory": "1Mi"}));
        assert_eq!(plain["requests"], json!({"cpu": "100m"}));
        assert_eq!(pod["spec"]["containers"][1]["resources"]["requests"], json!({"cpu": "200m"}));
        assert_eq!(wrong(&pod), [""; 0]);
    }

    #[test]
    fn each_bound_is_told_with_its_amounts() {
        let container = |cpu: &str, limit: &str, memory: &str| json!({"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": limit, "memory": memory}}});
        let found = wrong(&pod(json!([container("10m", "50m", "1Mi")])));
        assert_eq!(found, ["minimum cpu usage per Container is 50m, but request is 10m"]);
        let found = wrong(&pod(json!([container("500m", "2", "1Mi")])));
        assert_eq!(found, ["maximum cpu usage per Container is 1, but limit is 2"]);
        let found = wrong(&pod(json!([container("100m", "600m", "1Mi")])));
        assert_eq!(
            found,
            ["cpu max limit to request ratio per Container is 5, but provided ratio is 6.000000"]
        );
        let found =
            wrong(&pod(json!([container("1", "1", "600Mi"), container("1", "1", "600Mi")])));
        assert_eq!(found, ["maximum memory usage per Pod is 1Gi, but limit is 1200Mi"]);
        let found = wrong(&pod(json!([{"resources": {"limits": {"memory": "1Mi"}}}])));
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn init_containers_count_alone_and_sidecars_always() {
        let of = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let spec = json!({
            "initContainers": [
                {"resources": of("1")}, {"restartPolicy": "Always", "resources": of("200m")}, {"resources": of("3")},
            ],
            "containers": [{"resources": of("1")}, {"resources": of("1")}],
        });
        assert_eq!(total(&spec, "requests")["cpu"].to_string(), "3200m");
    }
}
