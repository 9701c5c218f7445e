//! What the API serves, and how people name it: `po`, `pods`, `Pod`, `deployments.apps`, `pods/name`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use kube::Client;

use super::Failure;
use super::client::explain;

/// One kind that the API serves.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Resource {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) plural: String,
    pub(super) singular: String,
    pub(super) kind: String,
    pub(super) short_names: Vec<String>,
    pub(super) namespaced: bool,
}

impl Resource {
    fn new(group: &str, version: &str, from: APIResource) -> Self {
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: from.name,
            singular: from.singular_name,
            kind: from.kind,
            short_names: from.short_names.unwrap_or_default(),
            namespaced: from.namespaced,
        }
    }

    /// The path of the collection, or of one object.
    pub(super) fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            path.push_str(&format!("/namespaces/{namespace}"));
        }
        path.push('/');
        path.push_str(&self.plural);
        if let Some(name) = name {
            path.push('/');
            path.push_str(name);
        }
        path
    }

    /// `deployment.apps`: how kubectl names an object's kind when it reports on it.
    pub(super) fn report_name(&self) -> String {
        let kind = self.kind.to_lowercase();
        if self.group.is_empty() { kind } else { format!("{kind}.{}", self.group) }
    }

    fn is_called(&self, name: &str) -> bool {
        self.plural == name
            || self.singular == name
            || self.kind.to_lowercase() == name
            || self.short_names.iter().any(|short| short == name)
    }
}

/// Ask the API what it serves: every group's preferred version.
pub(super) async fn discover(client: &Client) -> Result<Vec<Resource>, Failure> {
    let mut found = Vec::new();
    let core = client.list_core_api_resources("v1").await.map_err(explain)?;
    found.extend(core.resources.into_iter().map(|r| Resource::new("", "v1", r)));
    for group in client.list_api_groups().await.map_err(explain)?.groups {
        let preferred = group.preferred_version.or_else(|| group.versions.into_iter().next());
        let Some(version) = preferred else { continue };
        let list =
            client.list_api_group_resources(&version.group_version).await.map_err(explain)?;
        let new = |r| Resource::new(&group.name, &version.version, r);
        found.extend(list.resources.into_iter().map(new));
    }
    // Subresources are listed too, as `pods/log`.
    found.retain(|resource| !resource.plural.contains('/'));
    Ok(found)
}

/// The resource that people mean by `name`: any of its names, with or without `.group`.
pub(super) fn find<'a>(resources: &'a [Resource], name: &str) -> Option<&'a Resource> {
    let name = name.to_lowercase();
    let plain = resources.iter().find(|r| r.is_called(&name));
    plain.or_else(|| {
        let (name, group) = name.split_once('.')?;
        let group_is =
            |r: &&Resource| r.group == group || format!("{}.{}", r.version, r.group) == group;
        resources.iter().filter(group_is).find(|r| r.is_called(name))
    })
}

/// The resource of an object with these `apiVersion` and `kind`.
pub(super) fn of_kind<'a>(
    resources: &'a [Resource],
    api_version: &str,
    kind: &str,
) -> Option<&'a Resource> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    resources.iter().find(|r| r.group == group && r.version == version && r.kind == kind)
}

/// `KIND NAME…`, `KIND/NAME …` or `KIND`, as pairs.
pub(super) fn targets(words: &[String]) -> Result<Vec<(String, Option<String>)>, Failure> {
    let Some((first, rest)) = words.split_first() else {
        return Err("name a kind, like `pods`".into());
    };
    if words.iter().all(|word| word.contains('/')) {
        let pair = |word: &String| {
            let (kind, name) = word.split_once('/')?;
            (!kind.is_empty() && !name.is_empty()).then(|| (kind.to_owned(), Some(name.to_owned())))
        };
        let pairs: Option<Vec<_>> = words.iter().map(pair).collect();
        return pairs.ok_or_else(|| "expected KIND/NAME".into());
    }
    if words.iter().any(|word| word.contains('/')) {
        return Err("give either KIND NAME… or KIND/NAME…, not both".into());
    }
    let kinds = first.split(',').map(str::to_owned);
    if rest.is_empty() {
        return Ok(kinds.map(|kind| (kind, None)).collect());
    }
    let pairs = kinds.flat_map(|k| rest.iter().map(move |name| (k.clone(), Some(name.clone()))));
    Ok(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(group: &str, plural: &str, kind: &str, short: &str) -> Resource {
        Resource {
            group: group.into(),
            version: "v1".into(),
            plural: plural.into(),
            singular: kind.to_lowercase(),
            kind: kind.into(),
            short_names: vec![short.into()],
            namespaced: kind != "Node",
        }
    }

    fn all() -> Vec<Resource> {
        vec![
            resource("", "pods", "Pod", "po"),
            resource("", "nodes", "Node", "no"),
            resource("apps", "deployments", "Deployment", "deploy"),
        ]
    }

    #[test]
    fn every_name_of_a_kind_finds_it() {
        for name in ["po", "pod", "Pods", "POD"] {
            assert_eq!(find(&all(), name).unwrap().kind, "Pod", "{name}");
        }
        for name in ["deploy", "deployments.apps", "deploy.v1.apps"] {
            assert_eq!(find(&all(), name).unwrap().kind, "Deployment", "{name}");
        }
        assert!(find(&all(), "pods.apps").is_none());
        assert!(of_kind(&all(), "apps/v1", "Deployment").is_some());
        assert!(of_kind(&all(), "v1", "Deployment").is_none());
    }

    #[test]
    fn paths_follow_the_api() {
        let all = all();
        assert_eq!(all[0].path(Some("a"), Some("b")), "/api/v1/namespaces/a/pods/b");
        assert_eq!(all[0].path(None, None), "/api/v1/pods");
        assert_eq!(all[1].path(Some("a"), Some("b")), "/api/v1/nodes/b");
        assert_eq!(all[2].path(Some("a"), None), "/apis/apps/v1/namespaces/a/deployments");
    }

    #[test]
    fn words_are_targets() {
        let of = |words: &[&str]| {
            targets(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()).ok()
        };
        let pair = |kind: &str, name: &str| (kind.to_owned(), Some(name.to_owned()));
        assert_eq!(of(&["po"]), Some(vec![("po".into(), None)]));
        assert_eq!(of(&["po", "a", "b"]), Some(vec![pair("po", "a"), pair("po", "b")]));
        assert_eq!(of(&["po/a", "svc/b"]), Some(vec![pair("po", "a"), pair("svc", "b")]));
        assert_eq!(of(&["po,svc"]).unwrap().len(), 2);
        assert_eq!(of(&["po/a", "b"]), None);
        assert_eq!(of(&["po/"]), None);
        assert_eq!(of(&[]), None);
    }
}
