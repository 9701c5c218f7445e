//! Tables over all kinds: what decoding says, what defaults add, what validation refuses, what printers show.

mod decoding;
mod defaulting;
mod preparing;
mod printing;
mod validating;
mod validating_more;

use serde_json::Value;

use super::{FieldValidation, Kind, Operation, find_kind};
use crate::object::Object;
use crate::status::Cause;

/// The manifest of the first promise, as a user writes it.
const MYAPP: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: myapp, namespace: default}
spec:
  replicas: 3
  selector: {matchLabels: {app: myapp}}
  template:
    metadata: {labels: {app: myapp}}
    spec:
      containers:
      - name: app
        image: myapp:1.0
        ports: [{containerPort: 8080}]
        resources:
          requests: {cpu: 100m, memory: 128Mi}
          limits: {cpu: 500m, memory: 512Mi}
";

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn kind_of(value: &Value) -> &'static Kind {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    find_kind(text("apiVersion"), text("kind")).unwrap_or_else(|| panic!("no kind for {value}"))
}

/// Through decode, defaults, prepare, as the server does it; then what validation says.
fn admit(value: &mut Value, op: Operation<'_>) -> Vec<Cause> {
    let strategy = kind_of(value).strategy;
    strategy.decode(value, FieldValidation::Strict).unwrap_or_else(|e| panic!("{e}"));
    strategy.default(value);
    strategy.prepare(value, op);
    strategy.validate(value, op)
}

fn create(text: &str) -> (Value, Vec<Cause>) {
    let mut value = yaml(text);
    let causes = admit(&mut value, Operation::Create);
    (value, causes)
}

/// `field: message`, one per cause.
fn lines(causes: &[Cause]) -> Vec<String> {
    causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
}

/// A Table row as text.
fn row(value: &Value, now: &str) -> Vec<String> {
    let kind = kind_of(value);
    let object = Object::from_value(kind.resource, value).expect("object");
    let now = now.parse::<jiff::Timestamp>().expect("time").as_second();
    let cells = kind.strategy.row(&object, now);
    assert_eq!(cells.len(), kind.strategy.columns().len(), "{}", kind.kind);
    let text = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    cells.iter().map(text).collect()
}

#[test]
fn the_registry_is_consistent() {
    for kind in super::all() {
        let full = match kind.group {
            "" => kind.plural.to_owned(),
            group => format!("{}.{group}", kind.plural),
        };
        assert_eq!(kind.resource, full);
        assert!(super::find(kind.group, kind.version, kind.plural).is_some());
        assert!(super::find_kind(&kind.api_version(), kind.kind).is_some());
        assert!(super::find_resource(kind.resource).is_some());
        let root = kind.strategy.root().unwrap_or_else(|| panic!("no type for {}", kind.kind));
        let def = super::types().get(root);
        assert_eq!(def.short(), kind.kind);
        assert!(def.field("metadata").is_some());
        for name in kind.subresources {
            assert!(super::subresource(kind, name).is_some(), "{}/{name}", kind.plural);
        }
        let names = kind.strategy.columns().iter().filter(|c| c.format == "name").count();
        assert_eq!(names, 1, "{}", kind.kind);
    }
}
