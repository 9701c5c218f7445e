//! Where a request meets the rules: whose it is when somebody acts for another, whether it may be done, and
//! whether a role is given away by somebody who has it.

use http::request::Parts;
use http::{HeaderMap, StatusCode};
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use serde_json::Value;

use super::request::{Target, Verb};
use super::{Api, UserInfo, errors, meta, selector};
use crate::auth::node;
use crate::auth::rbac::{self, Action, Attributes};
use crate::kinds::Kind;
use crate::status::ApiError;

const IMPERSONATED_EXTRA: &str = "impersonate-extra-";

impl Api {
    pub(super) fn authorize(&self, user: &UserInfo, target: &Target) -> Result<(), ApiError> {
        self.demand(user, target, target_verb(target))
    }

    /// An object that is applied or put may have to be made first.
    pub(super) fn may_create(&self, user: &UserInfo, target: &Target) -> Result<(), ApiError> {
        self.demand(user, target, "create")
    }

    fn demand(&self, user: &UserInfo, target: &Target, verb: &str) -> Result<(), ApiError> {
        let narrowed = Narrowed::of(target);
        let wanted = Attributes { verb, ..attributes(target, &narrowed) };
        let refused = match self.decision(user, Action::Resource(wanted)) {
            Ok(_) => return Ok(()),
            Err(why) => why,
        };
        let mut text = denial(user, &wanted);
        if !refused.is_empty() {
            text = format!("{text}: {refused}");
        }
        Err(errors::forbidden(target.kind, &target.name, &text))
    }

    pub(super) fn authorize_path(&self, user: &UserInfo, parts: &Parts) -> Result<(), ApiError> {
        let verb = parts.method.as_str().to_ascii_lowercase();
        let path = parts.uri.path();
        if self.may(user, Action::Path { verb: &verb, path }) {
            return Ok(());
        }
        if user.is_anonymous() {
            return Err(errors::unauthorized());
        }
        let why = format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name);
        Err(ApiError::new(StatusCode::FORBIDDEN, "Forbidden", why))
    }

    fn may(&self, user: &UserInfo, action: Action<'_>) -> bool {
        self.allowance(user, action).is_some()
    }

    /// Why the user may; None when nothing allows it.
    pub(super) fn allowance(&self, user: &UserInfo, action: Action<'_>) -> Option<String> {
        self.decision(user, action).ok()
    }

    /// Ok: why the user may. Err: why not, as far as there is more to say than that nothing allows it.
    fn decision(&self, user: &UserInfo, action: Action<'_>) -> Result<String, String> {
        let opinion = match node::identity(user) {
            None => Err(String::new()),
            Some(node) => {
                let pods = |namespace: Option<&str>| self.placed.on(node, namespace);
                node::Asking { world: &*self.store, node, pods: &pods }.decide(action)
            }
        };
        opinion.or_else(|why| rbac::allows(&*self.store, user, action).ok_or(why))
    }

    /// The user that the request is made for: `kubectl --as`. Whoever asks needs the right to.
    pub(super) fn impersonated(
        &self,
        user: &UserInfo,
        headers: &HeaderMap,
    ) -> Result<Option<UserInfo>, ApiError> {
        let all = |name: &str| -> Vec<&str> {
            headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
        };
        let (names, mut groups) = (all("impersonate-user"), all("impersonate-group"));
        let uid = all("impersonate-uid").first().copied().unwrap_or_default();
        let extra = extra(headers);
        let Some(name) = names.first().copied().filter(|name| !name.is_empty()) else {
            return match groups.is_empty() && uid.is_empty() && extra.is_empty() {
                true => Ok(None),
                false => Err(errors::bad_request(
                    "requested impersonation of groups, uid or extra without impersonating a user",
                )),
            };
        };
        let account = name
            .strip_prefix("system:serviceaccount:")
            .and_then(|rest| rest.split_once(':'))
            .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
        let mut wanted = vec![match account {
            Some((namespace, name)) => of("", "serviceaccounts", "", namespace, name),
            None => of("", "users", "", "", name),
        }];
        wanted.extend(groups.iter().map(|group| of("", "groups", "", "", group)));
        const AUTH: &str = "authentication.k8s.io";
        if !uid.is_empty() {
            wanted.push(of(AUTH, "uids", "", "", uid));
        }
        for (key, values) in &extra {
            wanted.extend(values.iter().map(|value| of(AUTH, "userextras", key, "", value)));
        }
        for wanted in wanted {
            if !self.may(user, Action::Resource(wanted)) {
                let message = format!(
                    "{} {:?} is forbidden: {}",
                    wanted.resource,
                    wanted.name,
                    denial(user, &wanted)
                );
                return Err(ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message));
            }
        }
        let accounts = account.map(|(namespace, _)| format!("system:serviceaccounts:{namespace}"));
        if let (Some(accounts), true) = (&accounts, groups.is_empty()) {
            groups.extend(["system:serviceaccounts", accounts]);
        }
        let own = match name {
            "system:anonymous" => "system:unauthenticated",
            _ => "system:authenticated",
        };
        if !groups.contains(&own) {
            groups.push(own);
        }
        Ok(Some(UserInfo { uid: uid.into(), extra, ..UserInfo::new(name, &groups) }))
    }

    /// Nobody makes a role stronger than himself, or binds one, unless he may `escalate` or `bind`.
    pub(super) fn may_grant(
        &self,
        user: &UserInfo,
        kind: &Kind,
        namespace: &str,
        value: &Value,
    ) -> Result<(), ApiError> {
        if kind.group != "rbac.authorization.k8s.io" || rbac::is_master(user) {
            return Ok(());
        }
        let name = meta::text(value, "name");
        let (verb, resource, wanted_name, rules) = match kind.kind {
            "Role" | "ClusterRole" => {
                if value.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
                    let everything = PolicyRule {
                        verbs: vec!["*".into()],
                        api_groups: Some(vec!["*".into()]),
                        resources: Some(vec!["*".into()]),
                        ..PolicyRule::default()
                    };
                    ("escalate", kind.plural, name, vec![everything])
                } else {
                    ("escalate", kind.plural, name, parse(&value["rules"])?)
                }
            }
            _ => {
                let role: RoleRef = parse(&value["roleRef"])?;
                let rules = rbac::rules(&*self.store, namespace, &role).unwrap_or_default();
                let plural = if role.kind == "Role" { "roles" } else { "clusterroles" };
                ("bind", plural, value["roleRef"]["name"].as_str().unwrap_or_default(), rules)
            }
        };
        let action =
            Attributes { verb, namespace, ..of(kind.group, resource, "", namespace, wanted_name) };
        if self.may(user, Action::Resource(action)) {
            return Ok(());
        }
        let held: Vec<PolicyRule> =
            rbac::grants(&*self.store, user, namespace).flat_map(|grant| grant.rules).collect();
        match rbac::uncovered(&held, &rules) {
            None => Ok(()),
            Some(rule) => {
                let text = serde_json::to_string(&rule).unwrap_or_default();
                let why = format!(
                    "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{text}",
                    user.name, user.groups
                );
                Err(errors::forbidden(kind, name, &why))
            }
        }
    }
}

fn parse<T: serde::de::DeserializeOwned + Default>(value: &Value) -> Result<T, ApiError> {
    if value.is_null() {
        return Ok(T::default());
    }
    T::deserialize(value).map_err(|error| errors::bad_request(error.to_string()))
}

/// A wish to impersonate.
fn of<'a>(
    group: &'a str,
    resource: &'a str,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
) -> Attributes<'a> {
    let verb = "impersonate";
    Attributes { verb, group, resource, subresource, namespace, name, on_node: "" }
}

fn extra(headers: &HeaderMap) -> std::collections::BTreeMap<String, Vec<String>> {
    let mut extra = std::collections::BTreeMap::new();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(IMPERSONATED_EXTRA) else { continue };
        let Ok(value) = value.to_str() else { continue };
        let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
        extra.entry(key).or_insert_with(Vec::new).push(value.to_owned());
    }
    extra
}

/// What a field selector narrows a collection to.
#[derive(Default)]
struct Narrowed {
    name: String,
    node: String,
}

impl Narrowed {
    /// A selector that cannot be read narrows nothing; it is refused later.
    fn of(target: &Target) -> Self {
        let text = target.query.text("fieldSelector").filter(|_| target.name.is_empty());
        let fields = text.and_then(|text| selector::parse_fields(text).ok()).unwrap_or_default();
        let exactly = |label: &str| {
            let mut all = fields.iter().filter(|field| field.equal && field.label == label);
            all.next().map(|field| field.value.clone()).unwrap_or_default()
        };
        Self { name: exactly("metadata.name"), node: exactly("spec.nodeName") }
    }
}

fn target_verb(target: &Target) -> &'static str {
    match target.subresource.as_str() {
        // Reading one's way into a Pod by a WebSocket is a GET, but changes things.
        "exec" | "attach" | "portforward" if target.verb == Verb::Get => "create",
        _ => target.verb.as_str(),
    }
}

/// What a request wants, as rules speak of it.
fn attributes<'a>(target: &'a Target, narrowed: &'a Narrowed) -> Attributes<'a> {
    // A Namespace is in itself: who may read one need not be allowed to read all of them.
    let namespace = match (target.kind.resource, target.namespace.as_str()) {
        ("namespaces", "") => &target.name,
        (_, namespace) => namespace,
    };
    Attributes {
        verb: target_verb(target),
        group: target.kind.group,
        resource: target.kind.plural,
        subresource: &target.subresource,
        namespace,
        name: if target.name.is_empty() { &narrowed.name } else { &target.name },
        on_node: &narrowed.node,
    }
}

fn denial(user: &UserInfo, wanted: &Attributes<'_>) -> String {
    let resource = match wanted.subresource {
        "" => wanted.resource.to_owned(),
        sub => format!("{}/{sub}", wanted.resource),
    };
    let scope = match wanted.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?} {scope}",
        user.name, wanted.verb, wanted.group
    )
}
