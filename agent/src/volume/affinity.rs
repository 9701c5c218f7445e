//! Whether a persistent volume can be reached from a node. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
};

/// A volume without an affinity is everywhere; one term of it is enough, and an empty term matches nothing.
pub fn fits(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else {
        return true;
    };
    required.node_selector_terms.iter().any(|term| term_fits(term, node))
}

fn term_fits(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let name = node.metadata.name.clone().unwrap_or_default();
    let fields = BTreeMap::from([("metadata.name".to_owned(), name)]);
    let by_label = term.match_expressions.iter().flatten().map(|wish| (wish, &labels));
    let by_field = term.match_fields.iter().flatten().map(|wish| (wish, &fields));
    let mut all = by_label.chain(by_field).peekable();
    all.peek().is_some() && all.all(|(wish, values)| holds(wish, values))
}

fn holds(wish: &NodeSelectorRequirement, values: &BTreeMap<String, String>) -> bool {
    let value = values.get(&wish.key);
    let listed = || value.is_some_and(|value| wish.values.iter().flatten().any(|v| v == value));
    let number = |text: &String| text.parse::<i64>().ok();
    let pair = || Some((number(value?)?, number(wish.values.as_ref()?.first()?)?));
    match wish.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => pair().is_some_and(|(value, bound)| value > bound),
        "Lt" => pair().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(terms: Value) -> bool {
        let volume = json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}});
        let node = json!({"metadata": {"name": "n", "labels": {"host": "h", "rack": "7"}}});
        fits(&serde_json::from_value(volume).unwrap(), &serde_json::from_value(node).unwrap())
    }

    #[test]
    fn affinity_is_what_the_scheduler_takes_it_for() {
        let wish = |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
        let table = [
            (wish("host", "In", &["x", "h"]), true),
            (wish("host", "In", &["x"]), false),
            (wish("none", "In", &["x"]), false),
            (wish("host", "NotIn", &["h"]), false),
            (wish("none", "NotIn", &["h"]), true),
            (wish("rack", "Exists", &[]), true),
            (wish("rack", "DoesNotExist", &[]), false),
            (wish("rack", "Gt", &["6"]), true),
            (wish("rack", "Lt", &["7"]), false),
            (wish("host", "Gt", &["6"]), false),
            (wish("host", "Unheard", &["h"]), false),
        ];
        for (wish, right) in table {
            assert_eq!(check(json!([{"matchExpressions": [wish]}])), right, "{wish}");
        }
        let (yes, no) = (wish("host", "In", &["h"]), wish("host", "In", &["x"]));
        assert!(
            check(json!([{"matchExpressions": [no]}, {"matchExpressions": [yes]}])),
            "any term"
        );
        assert!(!check(json!([{"matchExpressions": [no, yes]}])), "all of a term");
        assert!(check(json!([{"matchFields": [wish("metadata.name", "In", &["n"])]}])));
        assert!(!check(json!([{}])) && !check(json!([])));
        assert!(fits(&PersistentVolume::default(), &Node::default()));
    }
}
