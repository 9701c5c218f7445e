//! The quality-of-service class of a Pod spec.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::kinds::Quantity;

type Amounts = BTreeMap<&'static str, Quantity>;

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(super) fn class(spec: &Value) -> &'static str {
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    let mut all_limited = true;
    let lists = ["containers", "initContainers"];
    for container in lists.iter().flat_map(|l| spec[l].as_array().into_iter().flatten()) {
        add(&mut requests, &container["resources"]["requests"]);
        let limited = add(&mut limits, &container["resources"]["limits"]);
        all_limited &= limited == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    if all_limited && requests == limits { "Guaranteed" } else { "Burstable" }
}

/// Adds what counts; how many of the two resources were there.
fn add(sum: &mut Amounts, amounts: &Value) -> usize {
    let mut found = 0;
    for name in ["cpu", "memory"] {
        let amount = amounts[name].as_str().and_then(|text| Quantity::parse(text).ok());
        let Some(amount) = amount.filter(|a| !a.is_zero() && !a.is_negative()) else { continue };
        found += 1;
        let entry = sum.entry(name).or_insert(Quantity::ZERO);
        *entry = *entry + amount;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let same =
            json!({"resources": {"requests": {"cpu": "1000m", "memory": "1Gi"}, "limits": both}});
        let some = json!({"resources": {"requests": {"cpu": "100m"}}});
        let none = json!({});
        for (containers, expected) in [
            (json!([none]), "BestEffort"),
            (json!([same]), "Guaranteed"),
            (json!([same, none]), "Burstable"),
            (json!([some]), "Burstable"),
            (json!([same, some]), "Burstable"),
        ] {
            assert_eq!(class(&json!({"containers": containers})), expected, "{containers}");
        }
    }
}
