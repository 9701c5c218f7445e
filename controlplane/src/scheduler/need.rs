//! What a Pod asks of a node, read once from its spec. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Container, NodeAffinity, PodSpec, ResourceRequirements, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::kinds;

/// Amounts of resources; on a node what it has or what is taken, of a Pod what it asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    pub(super) milli_cpu: i64,
    pub(super) memory: i64,
    pub(super) ephemeral: i64,
    pub(super) pods: i64,
    /// Huge pages and extended resources, by name.
    pub(super) other: BTreeMap<String, i64>,
}

impl Amounts {
    pub(super) fn read(list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let mut amounts = Self::default();
        for (name, Quantity(text)) in list.into_iter().flatten() {
            // Admission has read it before; what nobody can read weighs nothing.
            let amount = kinds::Quantity::parse(text).unwrap_or(kinds::Quantity::ZERO);
            let units = amount.value();
            match name.as_str() {
                "cpu" => amounts.milli_cpu = amount.milli_value(),
                "memory" => amounts.memory = units,
                "ephemeral-storage" => amounts.ephemeral = units,
                "pods" => amounts.pods = units,
                other => {
                    amounts.other.insert(other.to_owned(), units);
                }
            }
        }
        amounts
    }

    pub(super) fn add(&mut self, more: &Self) {
        self.combine(more, |a, b| a.saturating_add(b));
    }

    pub(super) fn sub(&mut self, less: &Self) {
        self.combine(less, |a, b| a.saturating_sub(b));
        self.other.retain(|_, amount| *amount != 0);
    }

    fn raise_to(&mut self, least: &Self) {
        self.combine(least, i64::max);
    }

    fn combine(&mut self, with: &Self, f: fn(i64, i64) -> i64) {
        self.milli_cpu = f(self.milli_cpu, with.milli_cpu);
        self.memory = f(self.memory, with.memory);
        self.ephemeral = f(self.ephemeral, with.ephemeral);
        self.pods = f(self.pods, with.pods);
        for (name, amount) in &with.other {
            let mine = self.other.entry(name.clone()).or_default();
            *mine = f(*mine, *amount);
        }
    }
}

/// A port of the node itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct HostPort {
    pub(super) ip: String,
    pub(super) protocol: String,
    pub(super) port: i32,
}

impl HostPort {
    /// An unset address means all addresses.
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        let all = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || all(&self.ip) || all(&other.ip))
    }
}

/// What a Pod takes from its node while it is there.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Footprint {
    pub(super) request: Amounts,
    /// As `request`, with a guess for containers that ask for nothing, so that they weigh something in scores.
    pub(super) weight_cpu: i64,
    pub(super) weight_memory: i64,
    pub(super) ports: Vec<HostPort>,
    /// The uid of its controller.
    pub(super) owner: Option<String>,
}

const GUESS_CPU: i64 = 100;
const GUESS_MEMORY: i64 = 200 * 1024 * 1024;

impl Footprint {
    pub(super) fn read(spec: &PodSpec, owner: Option<&str>) -> Self {
        let mut request = total(spec, &|c| requests(c.resources.as_ref()));
        request.pods = 1;
        let weight = total(spec, &|c| {
            let mut amounts = requests(c.resources.as_ref());
            if amounts.milli_cpu == 0 {
                amounts.milli_cpu = GUESS_CPU;
            }
            if amounts.memory == 0 {
                amounts.memory = GUESS_MEMORY;
            }
            amounts
        });
        Self {
            request,
            weight_cpu: weight.milli_cpu,
            weight_memory: weight.memory,
            ports: host_ports(spec),
            owner: owner.map(str::to_owned),
        }
    }
}

fn requests(resources: Option<&ResourceRequirements>) -> Amounts {
    Amounts::read(resources.and_then(|r| r.requests.as_ref()))
}

/// The most that the Pod needs at any moment: init containers run one after another beside the sidecars
/// before them; then all containers and all sidecars run together. A request of the Pod as a whole wins.
fn total(spec: &PodSpec, of: &dyn Fn(&Container) -> Amounts) -> Amounts {
    let mut sidecars = Amounts::default();
    let mut peak = Amounts::default();
    for container in spec.init_containers.iter().flatten() {
        let mut now = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&now);
            peak.raise_to(&sidecars);
        } else {
            now.add(&sidecars);
            peak.raise_to(&now);
        }
    }
    let mut sum = sidecars;
    spec.containers.iter().for_each(|container| sum.add(&of(container)));
    sum.raise_to(&peak);
    if let Some(requests) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let whole = Amounts::read(Some(requests));
        for (name, mine, given) in [
            ("cpu", &mut sum.milli_cpu, whole.milli_cpu),
            ("memory", &mut sum.memory, whole.memory),
        ] {
            if requests.contains_key(name) {
                *mine = given;
            }
        }
    }
    sum.add(&Amounts::read(spec.overhead.as_ref()));
    sum
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                ip: port.host_ip.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                port: port.host_port.filter(|number| *number > 0)?,
            })
        })
        .collect()
}

/// Everything that decides where a Pod may go.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Need {
    pub(super) footprint: Footprint,
    pub(super) selector: BTreeMap<String, String>,
    pub(super) affinity: Option<NodeAffinity>,
    pub(super) tolerations: Vec<Toleration>,
    /// Names of the claims that it mounts.
    pub(super) claims: Vec<String>,
    /// Somebody holds the Pod back with a scheduling gate.
    pub(super) gated: bool,
    /// A field that this scheduler does not know how to honour.
    pub(super) unsupported: Option<String>,
}

impl Need {
    pub(super) fn read(spec: &PodSpec, owner: Option<&str>) -> Self {
        Self {
            footprint: Footprint::read(spec, owner),
            selector: spec.node_selector.clone().unwrap_or_default(),
            affinity: spec.affinity.as_ref().and_then(|a| a.node_affinity.clone()),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            claims: claims(spec),
            gated: spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()),
            unsupported: unsupported(spec),
        }
    }
}

fn claims(spec: &PodSpec) -> Vec<String> {
    let volumes = spec.volumes.iter().flatten();
    let mut names: Vec<String> = volumes
        .filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone()))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The first hard requirement that would be broken silently.
fn unsupported(spec: &PodSpec) -> Option<String> {
    let hard = "requiredDuringSchedulingIgnoredDuringExecution";
    let affinity = spec.affinity.as_ref();
    let with = |has: fn(&Affinity) -> bool| affinity.is_some_and(has);
    if with(|a| {
        some(
            a.pod_affinity.as_ref().map(|p| &p.required_during_scheduling_ignored_during_execution),
        )
    }) {
        return Some(format!("spec.affinity.podAffinity.{hard}"));
    }
    if with(|a| {
        some(
            a.pod_anti_affinity
                .as_ref()
                .map(|p| &p.required_during_scheduling_ignored_during_execution),
        )
    }) {
        return Some(format!("spec.affinity.podAntiAffinity.{hard}"));
    }
    let mut spread = spec.topology_spread_constraints.iter().flatten();
    if let Some(index) = spread.position(|c| c.when_unsatisfiable == "DoNotSchedule") {
        return Some(format!(
            "spec.topologySpreadConstraints[{index}].whenUnsatisfiable=DoNotSchedule"
        ));
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("spec.resourceClaims".into());
    }
    let ephemeral = spec.volumes.iter().flatten().position(|volume| volume.ephemeral.is_some());
    ephemeral.map(|index| format!("spec.volumes[{index}].ephemeral"))
}

fn some<T>(terms: Option<&Option<Vec<T>>>) -> bool {
    terms.and_then(Option::as_ref).is_some_and(|terms| !terms.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).expect("spec")
    }

    fn container(cpu: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_always() {
        let sidecar = json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "300m"}}});
        let cases = [
            (json!({"containers": [container("1"), container("2")]}), 3000),
            (json!({"containers": [container("1")], "initContainers": [container("4")]}), 4000),
            (
                json!({"containers": [container("1")], "initContainers": [sidecar, container("4")]}),
                4300,
            ),
            (
                json!({"containers": [container("1")], "initContainers": [container("1"), sidecar]}),
                1300,
            ),
            (json!({"containers": [container("1")], "overhead": {"cpu": "50m"}}), 1050),
            (
                json!({"containers": [container("1")], "resources": {"requests": {"cpu": "7"}}}),
                7000,
            ),
        ];
        for (value, cpu) in cases {
            assert_eq!(
                Footprint::read(&spec(value.clone()), None).request.milli_cpu,
                cpu,
                "{value}"
            );
        }
    }

    #[test]
    fn fields_that_cannot_be_honoured_are_named() {
        let term = json!({"topologyKey": "zone"});
        let hard = "requiredDuringSchedulingIgnoredDuringExecution";
        let cases = [
            (
                json!({"affinity": {"podAntiAffinity": {hard: [term]}}}),
                Some(
                    "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution",
                ),
            ),
            (
                json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]}}}),
                None,
            ),
            (
                json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway"}]}),
                None,
            ),
            (
                json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]}),
                Some("spec.topologySpreadConstraints[0].whenUnsatisfiable=DoNotSchedule"),
            ),
            (
                json!({"volumes": [{"name": "v", "ephemeral": {}}]}),
                Some("spec.volumes[0].ephemeral"),
            ),
        ];
        for (mut value, expected) in cases {
            value["containers"] = json!([]);
            assert_eq!(unsupported(&spec(value.clone())).as_deref(), expected, "{value}");
        }
    }
}
