//! The node authorizer: a node reaches what its Pods need, and nothing of another's. Pure; the rules are upstream's.
//!
//! ```text
//! node ◄── Pod ◄── Secret, ConfigMap, ServiceAccount (its tokens)
//!           ◄── PersistentVolumeClaim ◄── PersistentVolume ◄── Secret
//! ```
//! Which Pods a node has comes from [`placement`], everything behind them is looked up when it is asked for: a node has
//! some hundred Pods at most. What the nodes write is narrowed further by admission's `node`.

mod needs;
pub(crate) mod placement;

use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::rbac::v1::PolicyRule;
use k8s_openapi::api::storage::v1::VolumeAttachment;

use super::policy;
use super::rbac::{self, Action, Attributes};
use crate::api::UserInfo;
use crate::reader::Reader;
use needs::Sort;

/// Where the nodes' Leases are.
pub(crate) const LEASES: &str = "kube-node-lease";
const GROUP: &str = "system:nodes";
const PREFIX: &str = "system:node:";
const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";

/// The node that a user is.
pub(crate) fn identity(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix(PREFIX).filter(|name| !name.is_empty())?;
    user.groups.iter().any(|group| group == GROUP).then_some(name)
}

/// What every node may do whatever it runs; for the kinds that are subdivided, the most it may.
pub(crate) fn rules() -> &'static [PolicyRule] {
    static RULES: LazyLock<Vec<PolicyRule>> = LazyLock::new(|| {
        serde_json::from_value(policy::node_rules()).expect("the rules are of their type")
    });
    &RULES
}

/// One node, and how to find its Pods.
pub(crate) struct Asking<'a> {
    pub(crate) world: &'a dyn Reader,
    pub(crate) node: &'a str,
    /// Namespace and name of the node's Pods; of one namespace where given.
    pub(crate) pods: &'a Pods<'a>,
}

pub(crate) type Pods<'a> = dyn Fn(Option<&str>) -> Vec<(String, String)> + 'a;

/// Ok: why it may. Err: this authorizer has nothing to say for it, and why.
type Verdict = Result<String, String>;

impl Asking<'_> {
    pub(crate) fn decide(&self, action: Action<'_>) -> Verdict {
        if let Action::Resource(wanted) = action {
            match (wanted.group, wanted.resource) {
                ("", "secrets") => return self.read(wanted, Sort::Secret),
                ("", "configmaps") => return self.read(wanted, Sort::ConfigMap),
                ("", CLAIMS) => return self.claim(wanted),
                ("", VOLUMES) => return self.volume(wanted),
                ("", "serviceaccounts") => return self.token(wanted),
                ("", "nodes") => return self.own_node(wanted),
                ("", "pods") => return self.own_pods(wanted),
                ("coordination.k8s.io", "leases") => return self.lease(wanted),
                ("storage.k8s.io", "csinodes") => return self.named_like_me(wanted),
                ("storage.k8s.io", "volumeattachments") => return self.attachment(wanted),
                _ => {}
            }
        }
        let allowed = rules().iter().any(|rule| rbac::fits(rule, action));
        if allowed { Ok(format!("node {:?}", self.node)) } else { Err(String::new()) }
    }

    fn yes(&self) -> Verdict {
        Ok(format!("node {:?}", self.node))
    }

    fn unrelated(&self) -> Verdict {
        Err(format!("no relationship found between node '{}' and this object", self.node))
    }

    fn related(&self, is: bool) -> Verdict {
        if is { self.yes() } else { self.unrelated() }
    }

    /// One object by its name, also as a list or watch of it alone.
    fn read(&self, wanted: Attributes<'_>, sort: Sort) -> Verdict {
        only(wanted, &["get", "list", "watch"], "can only read resources of this type")?;
        if wanted.namespace.is_empty() || wanted.name.is_empty() {
            return Err("can only read namespaced object of this type".into());
        }
        let used = self.uses(sort, wanted.namespace, wanted.name);
        self.related(used || (sort == Sort::Secret && self.behind_a_volume(wanted)))
    }

    fn claim(&self, wanted: Attributes<'_>) -> Verdict {
        match (wanted.subresource, wanted.verb) {
            ("status", "get" | "update" | "patch") | ("", "get") => {
                self.related(self.uses(Sort::Claim, wanted.namespace, wanted.name))
            }
            ("", _) => Err("can only get individual resources of this type".into()),
            _ => Err("can only get/update/patch this type".into()),
        }
    }

    fn volume(&self, wanted: Attributes<'_>) -> Verdict {
        only(wanted, &["get"], "can only get individual resources of this type")?;
        let volume = self.world.typed::<PersistentVolume>(VOLUMES, "", wanted.name);
        let claim = volume.and_then(|volume| volume.spec.as_ref()?.claim_ref.clone());
        let (namespace, name) = claim.map_or_else(Default::default, |claim| {
            (claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default())
        });
        self.related(self.uses(Sort::Claim, &namespace, &name))
    }

    fn token(&self, wanted: Attributes<'_>) -> Verdict {
        if wanted.verb != "create" || wanted.subresource != "token" {
            return Err("can only create tokens for individual service accounts".into());
        }
        if wanted.name.is_empty() {
            return Err("no Object name found".into());
        }
        self.related(self.uses(Sort::Account, wanted.namespace, wanted.name))
    }

    /// Names of what is written are compared by admission, which sees the object.
    fn own_node(&self, wanted: Attributes<'_>) -> Verdict {
        match (wanted.subresource, wanted.verb) {
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => self.yes(),
            ("", "get" | "list" | "watch") if wanted.name == self.node => self.yes(),
            ("", "get" | "list" | "watch") => Err(format!(
                "node '{}' cannot read {}, only its own Node object",
                self.node,
                if wanted.name.is_empty() {
                    "all nodes".into()
                } else {
                    format!("'{}'", wanted.name)
                }
            )),
            _ => Err(String::new()),
        }
    }

    fn own_pods(&self, wanted: Attributes<'_>) -> Verdict {
        match (wanted.subresource, wanted.verb) {
            ("", "get") => self.related(self.has(wanted.namespace, wanted.name)),
            ("", "list" | "watch") if wanted.on_node == self.node => self.yes(),
            ("", "list" | "watch") if !wanted.name.is_empty() => {
                self.related(self.has(wanted.namespace, wanted.name))
            }
            ("", "list" | "watch") => {
                Err("can only list/watch pods with spec.nodeName field selector".into())
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                self.yes()
            }
            _ => Err(String::new()),
        }
    }

    fn lease(&self, wanted: Attributes<'_>) -> Verdict {
        if wanted.namespace != LEASES {
            return Err(format!("can only access leases in the {LEASES:?} system namespace"));
        }
        self.named_like_me(wanted)
    }

    fn named_like_me(&self, wanted: Attributes<'_>) -> Verdict {
        const VERBS: &[&str] = &["get", "create", "update", "patch", "delete"];
        only(wanted, VERBS, "can only get, create, update, patch, or delete a node's own object")?;
        match wanted.verb == "create" || wanted.name == self.node {
            true => self.yes(),
            false => {
                Err("can only access an object with the same name as the requesting node".into())
            }
        }
    }

    fn attachment(&self, wanted: Attributes<'_>) -> Verdict {
        only(wanted, &["get"], "can only get individual resources of this type")?;
        let resource = "volumeattachments.storage.k8s.io";
        let found = self.world.typed::<VolumeAttachment>(resource, "", wanted.name);
        self.related(found.is_some_and(|attachment| attachment.spec.node_name == self.node))
    }

    fn has(&self, namespace: &str, name: &str) -> bool {
        (self.pods)(Some(namespace)).iter().any(|(_, pod)| pod == name)
    }

    fn uses(&self, sort: Sort, namespace: &str, name: &str) -> bool {
        let uses = |pod: &Pod| needs::any(pod, |of, needed| of == sort && needed == name);
        !name.is_empty() && self.standing(Some(namespace)).any(|pod| uses(&pod))
    }

    fn standing(&self, namespace: Option<&str>) -> impl Iterator<Item = Arc<Pod>> {
        let pods = (self.pods)(namespace).into_iter();
        pods.filter_map(|(namespace, name)| self.world.typed("pods", &namespace, &name))
    }

    /// A volume's driver may need a Secret, and the volume says which.
    fn behind_a_volume(&self, wanted: Attributes<'_>) -> bool {
        self.standing(None).any(|pod| {
            let home = pod.metadata.namespace.as_deref().unwrap_or_default();
            needs::any(&pod, |sort, claim| {
                sort == Sort::Claim && self.claimed_with(home, claim, wanted)
            })
        })
    }

    fn claimed_with(&self, home: &str, claim: &str, wanted: Attributes<'_>) -> bool {
        let claim = self.world.typed::<PersistentVolumeClaim>(CLAIMS, home, claim);
        let volume = claim.and_then(|claim| claim.spec.as_ref()?.volume_name.clone());
        let volume = volume.and_then(|v| self.world.typed::<PersistentVolume>(VOLUMES, "", &v));
        volume.is_some_and(|volume| {
            needs::secrets_of(&volume).any(|(namespace, name)| {
                let namespace = if namespace.is_empty() { home } else { namespace };
                namespace == wanted.namespace && name == wanted.name
            })
        })
    }
}

fn only(wanted: Attributes<'_>, verbs: &[&str], why: &str) -> Result<(), String> {
    match wanted.subresource.is_empty() && verbs.contains(&wanted.verb) {
        true => Ok(()),
        false => Err(why.into()),
    }
}

#[cfg(test)]
mod tests;
