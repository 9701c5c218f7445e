//! `kobune apply` and `kobune delete`: manifests in, a line per object out.
//!
//! Apply remembers what it sent in the annotation that kubectl uses, so that a field which a later manifest no longer has
//! is taken out, and so that both programs may work on one object.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use http::Method;
use kube::Client;
use serde_json::{Map, Value, json};

use super::Failure;
use super::client::{Access, explain, request};
use super::resources::{self, Resource};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

#[derive(Debug, Args)]
pub(super) struct Apply {
    #[command(flatten)]
    access: Access,
    /// Manifest, YAML or JSON; - for standard input
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    file: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    #[command(flatten)]
    access: Access,
    /// Delete what this manifest names; - for standard input
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with = "what")]
    file: Vec<PathBuf>,
    /// Seconds that Pods get to end
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<i64>,
    /// KIND NAME… or KIND/NAME…
    #[arg(value_name = "WHAT", required_unless_present = "file")]
    what: Vec<String>,
}

impl Apply {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let objects = read_all(&self.file)?;
        let (client, namespace) = self.access.open().await?;
        let known = resources::discover(&client).await?;
        let mut failed = false;
        for object in objects {
            match place(&known, &object, &self.access, &namespace) {
                Ok(target) => match target.apply(&client, object).await {
                    Ok(verb) => super::say(format_args!(
                        "{}/{} {verb}",
                        target.resource.report_name(),
                        target.name
                    )),
                    Err(e) => failed |= report(&target.name, &e),
                },
                Err(e) => failed |= report("manifest", &e),
            }
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

impl Delete {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let objects = read_all(&self.file)?;
        let (client, namespace) = self.access.open().await?;
        let known = resources::discover(&client).await?;
        let mut targets = Vec::new();
        for object in &objects {
            targets.push(place(&known, object, &self.access, &namespace)?);
        }
        if objects.is_empty() {
            for (kind, name) in resources::targets(&self.what)? {
                let resource = resources::find(&known, &kind)
                    .ok_or_else(|| format!("the API serves no kind {kind:?}"))?;
                let name = name.ok_or("name the objects to delete")?;
                targets.push(Target { resource, namespace: namespace.clone(), name });
            }
        }
        let mut options = json!({"propagationPolicy": "Background"});
        if let Some(seconds) = self.grace_period {
            options["gracePeriodSeconds"] = seconds.into();
        }
        let mut failed = false;
        for target in targets {
            let call = request(Method::DELETE, &target.path(), Some((JSON, &options)), JSON)?;
            match client.request::<Value>(call).await {
                Ok(_) => super::say(format_args!(
                    "{} {:?} deleted",
                    target.resource.report_name(),
                    target.name
                )),
                Err(e) => failed |= report(&target.name, &explain(e)),
            }
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn report(name: &str, error: &Failure) -> bool {
    eprintln!("kobune: {name}: {error}");
    true
}

struct Target<'a> {
    resource: &'a Resource,
    namespace: String,
    name: String,
}

impl Target<'_> {
    fn path(&self) -> String {
        self.resource.path(Some(&self.namespace), Some(&self.name))
    }

    async fn apply(&self, client: &Client, mut object: Value) -> Result<&'static str, Failure> {
        let sent = object.to_string();
        object["metadata"]["annotations"][LAST_APPLIED] = sent.into();
        let query = "fieldManager=kobune-apply&fieldValidation=Strict";
        let get = request(Method::GET, &self.path(), None, JSON)?;
        let live = match client.request::<Value>(get).await {
            Ok(live) => live,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let path = self.resource.path(Some(&self.namespace), None);
                let uri = format!("{path}?{query}");
                let post = request(Method::POST, &uri, Some((JSON, &object)), JSON)?;
                client.request::<Value>(post).await.map_err(explain)?;
                return Ok("created");
            }
            Err(e) => return Err(explain(e)),
        };
        let last = live["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap_or("null");
        let last = serde_json::from_str(last).unwrap_or(Value::Null);
        let patch = merge_patch(&last, &object, &live);
        if patch == json!({}) {
            return Ok("unchanged");
        }
        let uri = format!("{}?{query}", self.path());
        let call = request(Method::PATCH, &uri, Some((MERGE, &patch)), JSON)?;
        let changed: Value = client.request(call).await.map_err(explain)?;
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        Ok(if version(&changed) == version(&live) { "unchanged" } else { "configured" })
    }
}

/// Where an object of a manifest belongs.
fn place<'a>(
    known: &'a [Resource],
    object: &Value,
    access: &Access,
    default: &str,
) -> Result<Target<'a>, Failure> {
    let text = |value: &Value, what: &str| {
        value.as_str().map(str::to_owned).ok_or_else(|| format!("the manifest has no {what}"))
    };
    let (version, kind) =
        (text(&object["apiVersion"], "apiVersion")?, text(&object["kind"], "kind")?);
    let name = text(&object["metadata"]["name"], "metadata.name")?;
    let resource = resources::of_kind(known, &version, &kind)
        .ok_or_else(|| format!("the API serves no kind {kind:?} in version {version:?}"))?;
    let own = object["metadata"]["namespace"].as_str();
    if let (Some(own), Some(given)) = (own, access.given_namespace())
        && own != given
    {
        let message = format!("{kind} {name:?} is of namespace {own:?}, not {given:?}");
        return Err(message.into());
    }
    Ok(Target { resource, namespace: own.unwrap_or(default).to_owned(), name })
}

/// The merge patch that brings `live` to `new`: what differs, and null for what only `last` had.
fn merge_patch(last: &Value, new: &Value, live: &Value) -> Value {
    let empty = Map::new();
    let of =
        |value: &'_ Value| -> Map<String, Value> { value.as_object().unwrap_or(&empty).clone() };
    let (last, new, live) = (of(last), of(new), of(live));
    let mut patch = Map::new();
    for (key, value) in &new {
        let (before, now) = (last.get(key), live.get(key));
        match now {
            Some(now) if now == value => {}
            Some(now) if now.is_object() && value.is_object() => {
                let inner = merge_patch(before.unwrap_or(&Value::Null), value, now);
                if inner != json!({}) {
                    patch.insert(key.clone(), inner);
                }
            }
            _ => drop(patch.insert(key.clone(), value.clone())),
        }
    }
    for key in last.keys() {
        if !new.contains_key(key) && live.contains_key(key) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    Value::Object(patch)
}

fn read_all(files: &[PathBuf]) -> Result<Vec<Value>, Failure> {
    let mut objects = Vec::new();
    for path in files {
        let mut text = String::new();
        let read = match path.to_str() {
            Some("-") => std::io::stdin().read_to_string(&mut text),
            _ => std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
        };
        read.map_err(|e| format!("read {path:?}: {e}"))?;
        objects.extend(parse(&text).map_err(|e| format!("read {path:?}: {e}"))?);
    }
    if objects.is_empty() && !files.is_empty() {
        return Err("the manifest holds no objects".into());
    }
    Ok(objects)
}

/// The objects of a manifest; a `List` stands for its items.
fn parse(text: &str) -> Result<Vec<Value>, Failure> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    let mut objects = Vec::new();
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        match document.get("items").and_then(Value::as_array) {
            Some(items) if document["kind"] == "List" => objects.extend(items.iter().cloned()),
            _ => objects.push(document),
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_have_many_documents_and_lists() {
        let text = "kind: A\n---\n# nothing\n---\nkind: List\nitems: [{kind: B}, {kind: C}]\n";
        let kinds: Vec<_> =
            parse(text).unwrap().iter().map(|o| o["kind"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
        assert!(parse("a: [").is_err());
    }

    #[test]
    fn a_patch_says_only_what_changes() {
        let last = json!({"spec": {"a": 1, "gone": true, "map": {"x": 1, "y": 2}}});
        let new = json!({"spec": {"a": 1, "b": [1, 2], "map": {"x": 1}}});
        let live = json!({"spec": {"a": 1, "gone": true, "b": [1], "map": {"x": 1, "y": 2},
                          "default": "kept"}, "status": {}});
        let patch = merge_patch(&last, &new, &live);
        assert_eq!(patch, json!({"spec": {"b": [1, 2], "gone": null, "map": {"y": null}}}));
        assert_eq!(merge_patch(&new, &live, &live), json!({}));
    }
}
